"""Where the ranks of a worker go."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.controller.placement import Node, capacity, packs, quietest
from triptych.core.errors import FailedPrecondition
from triptych.parallel import Parallelism

RANK = {"CPU": 2.0, "GPU": 1.0}


def node(name: str, gpus: float, cpus: float = 64.0) -> Node:
    return Node(name, {"CPU": cpus, "GPU": gpus, "memory": 1e9})


def test_all_ranks_go_to_one_node_where_one_has_room_for_them() -> None:
    assert packs(Parallelism(4, 2), RANK, [node("a", 4), node("b", 8)]) == (8,)
    assert packs(Parallelism(2), RANK, [node("a", 2)]) == (2,)


def test_rows_of_expert_ranks_are_never_parted() -> None:
    assert packs(Parallelism(4, 3), RANK, [node("a", 8), node("b", 4)]) == (4, 4, 4)


def test_as_many_rows_share_a_node_as_leaves_equally_many_to_each() -> None:
    assert packs(Parallelism(2, 8), RANK, [node(name, 8) for name in "abcd"]) == (8, 8)
    assert packs(Parallelism(1, 6), RANK, [node("a", 5), node("b", 4)]) == (3, 3)
    assert packs(Parallelism(1, 4), RANK, [node("a", 3), node("b", 1), node("c", 1)]) == (1, 1, 1, 1)
    assert packs(Parallelism(1, 4), RANK, [node("a", 3)]) == (1, 1, 1, 1)  # and waits for others


def test_ranks_that_divide_matrices_are_never_parted() -> None:
    with pytest.raises(FailedPrecondition, match=r"room for 3 of 2 CPU, 1 GPU each; lower tensor_parallel") as caught:
        packs(Parallelism(4, 2), RANK, [node("a", 3), node("b", 8, cpus=7)])
    assert caught.value.field == "tensor_parallel"
    with pytest.raises(FailedPrecondition, match="room for 0"):
        packs(Parallelism(2), RANK, [])


def test_hundredths_of_a_processor_add_up() -> None:
    assert capacity(Node("a", {"CPU": 1.0}), {"CPU": 0.1}) == 10
    assert capacity(Node("a", {"CPU": 2.0}), {"CPU": 0.001, "GPU": 0.0}) == 2000


@given(st.lists(st.integers(0, 8), min_size=1, max_size=6), st.integers(1, 30), st.integers(1, 4))
def test_workers_spread_over_the_nodes_that_can_have_them(gpus: list[int], workers: int, count: int) -> None:
    nodes = [node(str(number), amount) for number, amount in enumerate(gpus)]
    taken: list[str] = []
    for _ in range(workers):
        if chosen := quietest(nodes, RANK, count, taken):
            taken.append(chosen)
    fit = [n.node_id for n in nodes if capacity(n, RANK) >= count]
    assert bool(taken) == bool(fit)
    assert set(taken) <= set(fit)
    counts = [Counter(taken)[node_id] for node_id in fit]
    assert max(counts, default=0) - min(counts, default=0) <= 1
