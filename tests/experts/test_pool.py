import random

import pytest

from triptych.core.errors import Internal, InvalidArgument
from triptych.experts.pool import LayerNeed, pool_of
from triptych.experts.settings import Auto, Bytes, Fraction, OffloadSettings

BLOB = 168 * 1024


def layers(count: int = 30, experts: int = 32, top_k: int = 12) -> list[LayerNeed]:
    return [LayerNeed(experts, top_k, BLOB, (0.0,) * experts)] * count


@pytest.mark.parametrize("_", range(50))
def test_slots_are_within_the_budget_and_a_demand_of_a_whole_layer_finds_room(_: int) -> None:
    needs = [
        LayerNeed(experts, random.randint(1, experts), 4096 * random.randint(1, 9), tuple([0.5] * experts))
        for experts in (random.randint(1, 40) for _ in range(random.randint(1, 20)))
    ]
    largest, slot = max(need.experts for need in needs), max(need.nbytes for need in needs)
    budget = random.randint(largest * slot, 2 * sum(need.experts * slot for need in needs))
    readers = random.randint(1, 8)
    shares = random.choice(["uniform", "shallow", "measured"])
    pool = pool_of(OffloadSettings(budget=Bytes(budget), readers=readers, shares=shares), needs)  # type: ignore[arg-type]
    assert pool.nbytes <= budget
    assert largest <= pool.slots <= sum(need.experts for need in needs)
    assert sum(pool.quotas) <= pool.slots
    assert all(quota <= need.experts for quota, need in zip(pool.quotas, needs, strict=True))
    assert pool.speculative == 0 or largest + readers + pool.speculative <= pool.slots


def test_half_of_the_experts() -> None:
    pool = pool_of(OffloadSettings(budget=Fraction(0.5), speculation=0.1), layers())
    assert (pool.slots, sum(pool.quotas), pool.speculative) == (480, 480 - 24, 48)


def test_a_budget_for_everything_keeps_everything() -> None:
    pool = pool_of(OffloadSettings(budget=Fraction(1.0)), layers())
    assert (pool.slots, set(pool.quotas), pool.speculative) == (960, {32}, 0)


def test_a_budget_of_one_layer_is_enough_and_leaves_no_room_for_speculation() -> None:
    pool = pool_of(OffloadSettings(budget=Bytes(32 * BLOB)), layers())
    assert (pool.slots, pool.speculative) == (32, 0)
    with pytest.raises(InvalidArgument, match=r"32 of 168\.00 KiB are 5\.25 MiB \(3\.3% of all\), got 5\.25 MiB"):
        pool_of(OffloadSettings(budget=Bytes(32 * BLOB - 1)), layers())


def test_a_ring_keeps_nobody_and_reads_ahead_what_fits() -> None:
    pool = pool_of(OffloadSettings(budget=Fraction(0.1), policy="ring"), layers())
    assert (pool.slots, sum(pool.quotas), pool.speculative) == (96, 0, 96 - 32 - 4)


def test_without_prediction_nothing_is_set_aside_for_it() -> None:
    pool = pool_of(OffloadSettings(budget=Fraction(0.1), prefetch="none"), layers())
    assert (pool.speculative, sum(pool.quotas)) == (0, 96 - 12)


def test_slots_take_the_largest_expert_of_any_layer() -> None:
    needs = [LayerNeed(4, 1, 4096, (0.0,) * 4), LayerNeed(4, 1, 8192, (0.0,) * 4)]
    assert pool_of(OffloadSettings(budget=Bytes(5 * 8192 + 1)), needs).slots == 5


def test_auto_is_settled_before() -> None:
    with pytest.raises(Internal, match="auto"):
        pool_of(OffloadSettings(budget=Auto()), layers())
