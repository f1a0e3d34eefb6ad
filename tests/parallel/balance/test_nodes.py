"""Ranks on several nodes: the groups of experts that a router knows stay together."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.parallel.balance import (
    BalancePolicy,
    Director,
    LayerStaged,
    Loads,
    Placement,
    StageLayer,
    balanced,
    rebalance_layer,
    settle,
)

EXPERTS, GROUPS, RANKS, NODES = 16, 4, 8, 2


def nodes_of_groups(placement: Placement) -> list[set[int]]:
    """By group, the nodes on which experts of it are."""
    nodes: list[set[int]] = [set() for _ in range(GROUPS)]
    for rank, experts in enumerate(placement.slots):
        for expert in experts:
            nodes[expert * GROUPS // EXPERTS].add(rank * NODES // RANKS)
    return nodes


@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 8, 16]))
def test_groups_stay_on_one_node_through_any_number_of_moves(seed: int, redundant: int) -> None:
    dice = random.Random(seed)
    placement = Placement.even(EXPERTS, RANKS, redundant)
    for _ in range(4):
        weights = [float(dice.randrange(1000)) for _ in range(EXPERTS)]
        placement = balanced(weights, placement, GROUPS, NODES)
        wanted = rebalance_layer(weights, EXPERTS + redundant, GROUPS, NODES, RANKS)
        assert sorted(placement.rank_loads(weights)) == pytest.approx(sorted(wanted.rank_loads(weights)))
        assert [len(nodes) for nodes in nodes_of_groups(placement)] == [1] * GROUPS
        assert sorted(min(nodes) for nodes in nodes_of_groups(placement)) == [0, 0, 1, 1]
        assert balanced(weights, placement, GROUPS, NODES) == placement


@given(st.lists(st.integers(0, 1000), min_size=EXPERTS, max_size=EXPERTS), st.sampled_from([1, 3]))
def test_groups_that_nodes_do_not_divide_are_balanced_over_all_ranks(weights: list[float], odd: int) -> None:
    old = Placement.even(EXPERTS, RANKS, 8)
    everywhere = settle(old, rebalance_layer(weights, EXPERTS + 8, 1, 1, RANKS))
    assert balanced(weights, old, odd, NODES) == everywhere


def test_nodes_swap_their_names_before_anything_moves() -> None:
    old = Placement(((0, 1), (2, 3), (4, 5), (6, 7)))
    swapped = Placement(((7, 6), (4, 5), (3, 2), (0, 1)))
    assert settle(old, swapped, 2) == old
    assert settle(old, Placement(((0, 4), (1, 5), (2, 6), (3, 7))), 2).slots == ((0, 4), (1, 5), (2, 6), (3, 7))


def test_each_layer_is_balanced_by_the_groups_of_its_own_router() -> None:
    even = Placement.even(EXPERTS, RANKS, 8)
    ranks, policy = frozenset(range(RANKS)), BalancePolicy(nodes=NODES)
    director = Director((3, 5), (even, even), (GROUPS, 1), ranks, frozenset((0,)), policy)
    weights = np.array([900, 800, 700, 600, *range(10, 22)], np.int64)
    director.force()
    director.turn(0.0)
    director.hear(0, Loads(np.stack((weights, weights))))
    (grouped,) = director.turn(1.0)
    assert isinstance(grouped, StageLayer)
    for rank in ranks:
        director.hear(rank, LayerStaged(grouped.move, 1, 1, 0.1))
    _, free = director.turn(2.0)
    assert isinstance(free, StageLayer)
    assert [len(nodes) for nodes in nodes_of_groups(grouped.placement)] == [1] * GROUPS
    assert len(nodes_of_groups(free.placement)[0]) == 2  # the hot ones are better off apart
    assert free.placement.balancedness(weights.tolist()) > grouped.placement.balancedness(weights.tolist())
