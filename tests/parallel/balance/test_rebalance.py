"""Where copies of experts go: the published example, and what holds for any load."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.core.errors import InvalidArgument
from triptych.parallel.balance import Placement, pack, rebalance, rebalance_layer, replicate

LOADS = st.floats(0, 1e6, allow_nan=False)


@st.composite
def layers(draw: st.DrawFn) -> tuple[list[float], int, int, int, int]:
    """Weights, replicas, groups, nodes and ranks that divide each other as they must."""
    nodes, per_node = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    ranks, groups = nodes * per_node, nodes * draw(st.integers(1, 3))
    experts = groups * draw(st.integers(1, 4))
    least = -(-experts // ranks)
    replicas = ranks * draw(st.integers(least, least + 3))
    weights = draw(st.lists(LOADS, min_size=experts, max_size=experts))
    return weights, replicas, groups, nodes, ranks


def test_the_published_example() -> None:
    weights = [
        [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
        [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
    ]
    placements = rebalance(weights, replicas=16, groups=4, nodes=2, ranks=8)
    assert [p.by_slot for p in placements] == [
        (5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1),
        (7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1),
    ]
    assert all(p.ranks == 8 for p in placements)


@given(layers())
def test_every_expert_is_somewhere_and_every_rank_has_equally_many_slots(
    layer: tuple[list[float], int, int, int, int],
) -> None:
    weights, replicas, groups, nodes, ranks = layer
    placement = rebalance_layer(weights, replicas, groups, nodes, ranks)
    assert [len(slots) for slots in placement.slots] == [replicas // ranks] * ranks
    assert set(placement.by_slot) == set(range(len(weights)))


@given(layers())
def test_the_copies_of_a_group_stay_on_one_node(layer: tuple[list[float], int, int, int, int]) -> None:
    weights, replicas, groups, nodes, ranks = layer
    placement = rebalance_layer(weights, replicas, groups, nodes, ranks)
    size, per_node = len(weights) // groups, ranks // nodes
    homes: dict[int, set[int]] = {group: set() for group in range(groups)}
    for rank, slots in enumerate(placement.slots):
        for expert in slots:
            homes[expert // size].add(rank // per_node)
    assert all(len(home) == 1 for home in homes.values())
    assert set(Counter(node for home in homes.values() for node in home).values()) == {groups // nodes}


@given(st.lists(LOADS, min_size=1, max_size=24), st.integers(0, 12))
def test_a_further_copy_never_makes_the_heaviest_copy_heavier(weights: list[float], further: int) -> None:
    copies = Counter(replicate(weights, len(weights) + further))
    more = Counter(replicate(weights, len(weights) + further + 1))
    assert more - copies == Counter({(more - copies).popitem()[0]: 1})
    assert max(w / more[e] for e, w in enumerate(weights)) <= max(w / copies[e] for e, w in enumerate(weights))


@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_packs_differ_by_no_more_than_the_heaviest_item(packs: int, room: int, data: st.DataObject) -> None:
    count = packs * room
    weights = data.draw(st.lists(st.integers(0, 1000), min_size=count, max_size=count))
    packed = pack(weights, packs)
    assert sorted(item for items in packed for item in items) == list(range(count))
    assert {len(items) for items in packed} == {room}
    loads = [sum(weights[item] for item in items) for items in packed]
    assert max(loads) - min(loads) <= max(weights)


def test_a_hot_expert_is_divided_among_the_ranks() -> None:
    weights = [800.0, *[10.0] * 7]
    before, after = Placement.even(8, 4), rebalance_layer(weights, 12, 1, 1, 4)
    assert before.balancedness(weights) == pytest.approx(217.5 / 810)
    assert after.copies()[0] == 5
    assert after.balancedness(weights) > 0.65


def test_groups_that_no_node_count_divides_are_balanced_globally() -> None:
    weights = [5.0, 1.0, 4.0, 2.0, 3.0, 6.0]
    assert rebalance_layer(weights, 8, 3, 2, 4) == rebalance_layer(weights, 8, 1, 1, 4)


@pytest.mark.parametrize(
    ("replicas", "groups", "nodes", "ranks"),
    [(9, 2, 1, 2), (4, 1, 1, 2), (8, 4, 2, 2), (8, 2, 2, 3)],
    ids=["slots", "fewer-slots-than-experts", "experts-by-groups", "ranks-by-nodes"],
)
def test_what_does_not_come_out_even_is_refused(replicas: int, groups: int, nodes: int, ranks: int) -> None:
    with pytest.raises(InvalidArgument):
        rebalance_layer([1.0] * 6, replicas, groups, nodes, ranks)
