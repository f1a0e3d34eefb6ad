"""Where experts are, what their ranks have to do, and the way to another placement."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.core.errors import InvalidArgument
from triptych.parallel.balance import Placement, moves, rebalance_layer, settle

SEEDS = st.integers(0, 1 << 32)


def placed(seed: int, experts: int, ranks: int, room: int) -> Placement:
    """Every expert somewhere, the other slots at random."""
    dice = random.Random(seed)
    slots = [*range(experts), *dice.choices(range(experts), k=ranks * room - experts)]
    dice.shuffle(slots)
    return Placement(tuple(tuple(slots[rank * room : (rank + 1) * room]) for rank in range(ranks)))


@pytest.mark.parametrize(
    ("experts", "ranks", "redundant", "slots"),
    [
        (4, 2, 0, ((0, 1), (2, 3))),
        (5, 3, 0, ((0, 1), (2, 3), (4,))),
        (4, 2, 2, ((0, 1, 2), (3, 0, 1))),
        (3, 3, 6, ((0, 1, 2), (0, 1, 2), (0, 1, 2))),
    ],
)
def test_before_any_load_experts_lie_in_order(
    experts: int, ranks: int, redundant: int, slots: tuple[tuple[int, ...], ...]
) -> None:
    placement = Placement.even(experts, ranks, redundant)
    assert placement.slots == slots
    assert placement.bounds == tuple(sum(map(len, slots[:rank])) for rank in range(ranks + 1))


@pytest.mark.parametrize(("experts", "ranks", "redundant"), [(3, 4, 0), (4, 2, 1), (5, 2, 2), (4, 2, -2)])
def test_slots_that_do_not_come_out_even_are_refused(experts: int, ranks: int, redundant: int) -> None:
    with pytest.raises(InvalidArgument, match="expert"):
        Placement.even(experts, ranks, redundant)


@given(SEEDS, SEEDS, st.integers(1, 4), st.integers(2, 5))
def test_what_a_rank_already_has_keeps_its_slot(old_seed: int, new_seed: int, ranks: int, room: int) -> None:
    experts = ranks * room - 1
    old, new = placed(old_seed, experts, ranks, room), placed(new_seed, experts, ranks, room)
    settled = settle(old, new)
    weights = [float(e * e + 1) for e in range(experts)]
    assert sorted(settled.rank_loads(weights)) == pytest.approx(sorted(new.rank_loads(weights)))
    assert settled.copies() == new.copies()
    for before, after in zip(old.slots, settled.slots, strict=True):
        stay = Counter(before) & Counter(after)
        assert sum(a == b for a, b in zip(before, after, strict=True)) == stay.total()
    assert len(moves(old, settled)) <= len(moves(old, new))


@given(SEEDS, st.integers(1, 4), st.integers(2, 5))
def test_a_placement_that_only_swaps_names_moves_nothing(seed: int, ranks: int, room: int) -> None:
    old = placed(seed, ranks * room - 1, ranks, room)
    dice = random.Random(seed)
    shares = [tuple(dice.sample(slots, len(slots))) for slots in old.slots]
    dice.shuffle(shares)
    assert settle(old, Placement(tuple(shares))) == old
    assert moves(old, old) == ()


def test_moves_are_what_a_rank_does_not_have() -> None:
    old, new = Placement(((0, 1, 2), (3, 0, 1))), Placement(((0, 0, 2), (3, 1, 2)))
    assert [(move.rank, move.expert) for move in moves(old, settle(old, new))] == [(1, 2)]


@given(st.lists(st.integers(0, 10_000), min_size=8, max_size=8), st.integers(0, 3))
def test_balancedness_lies_between_one_over_ranks_and_one(weights: list[int], extra: int) -> None:
    placement = rebalance_layer(weights, 8 + 4 * extra, 1, 1, 4)
    assert 0.25 <= placement.balancedness(weights) <= 1 + 1e-9
    assert sum(placement.rank_loads(weights)) == pytest.approx(sum(weights))
