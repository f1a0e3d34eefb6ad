import random
from collections.abc import Sequence

import pytest

from triptych.experts.quotas import measured, shallow, uniform


@pytest.mark.parametrize("seed", range(20))
def test_all_slots_are_given_and_no_layer_has_more_than_its_experts(seed: int) -> None:
    rng = random.Random(_shown(seed))
    experts = [rng.randint(1, 40) for _ in range(rng.randint(1, 30))]
    slots = rng.randint(0, sum(experts) + 20)
    uses = [[rng.random() for _ in range(count)] for count in experts]
    for quotas in (uniform(slots, experts), shallow(slots, experts, rng.random()), measured(slots, uses)):
        assert sum(quotas) == min(slots, sum(experts))
        assert all(0 <= quota <= count for quota, count in zip(quotas, experts, strict=True))


@pytest.mark.parametrize("slots", [0, 1, 29, 30, 31, 448, 960])
def test_uniform_quotas_of_equal_layers_differ_by_one_at_most(slots: int) -> None:
    quotas = uniform(slots, [32] * 30)
    assert max(quotas) - min(quotas) <= 1
    assert list(quotas) == sorted(quotas, reverse=True)


def test_uniform_quotas_are_shares_of_the_experts_that_a_layer_has() -> None:
    assert uniform(30, [40, 20]) == (20, 10)


def test_shallow_quotas_fall_from_layer_to_layer_and_keep_their_mean() -> None:
    quotas = shallow(160, [32] * 10, slope=0.5)
    assert list(quotas) == sorted(quotas, reverse=True)
    assert (quotas[0], quotas[-1]) == (24, 8)


def test_shallow_without_a_slope_is_uniform() -> None:
    assert shallow(100, [32] * 7, slope=0.0) == uniform(100, [32] * 7)


@pytest.mark.parametrize("seed", range(10))
def test_no_other_quotas_keep_experts_that_are_used_more(seed: int) -> None:
    rng = random.Random(_shown(seed))
    uses = [[rng.random() for _ in range(6)] for _ in range(4)]
    slots = rng.randint(1, 23)
    best = sum(sorted((use for layer in uses for use in layer), reverse=True)[:slots])
    assert _kept(uses, measured(slots, uses)) == pytest.approx(best)


def test_layers_that_nothing_is_known_of_are_treated_alike() -> None:
    assert measured(9, [[0.0] * 8] * 3) == (3, 3, 3)


def _kept(uses: Sequence[Sequence[float]], quotas: Sequence[int]) -> float:
    return sum(sum(sorted(layer, reverse=True)[:quota]) for layer, quota in zip(uses, quotas, strict=True))


def _shown(seed: int) -> int:
    print(f"{seed=}")
    return seed
