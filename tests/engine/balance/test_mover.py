"""One rank's part in moving experts: what it reads, what it keeps, what it says, and when."""

import threading
from collections.abc import Callable
from queue import SimpleQueue

import pytest
import torch

from triptych.engine.balance import ExpertMover
from triptych.kernels import DenseWeight, Experts
from triptych.models.expert_share import Expert, ExpertShare, Held, together
from triptych.models.parameters import Linear
from triptych.parallel import Mesh, Parallelism
from triptych.parallel.balance import (
    CommitLayer,
    DropLayer,
    LayerFailed,
    LayerStaged,
    Loads,
    Placement,
    Replicas,
    Report,
    StageLayer,
    TakeLoads,
)

CPU = torch.device("cpu")
MATRIX = 16 * 8 * 4
OLD = Placement(((0, 1, 2), (3, 0, 1)))
NEW = Placement(((3, 1, 0), (3, 2, 2)))


def expert(number: int) -> Expert:
    """Matrices that say whose they are."""
    gate, up, down = (
        Linear(DenseWeight(torch.full(shape, float(number))), None) for shape in ((16, 8), (16, 8), (8, 16))
    )
    return gate, up, down


def share(rank: int, read: Callable[[int], Expert] = expert) -> ExpertShare:
    experts = together([expert(e) for e in OLD.slots[rank]])
    return ExpertShare(5, Held(OLD, Replicas.of(OLD, rank, CPU), experts), read)


def numbers(experts: Experts) -> list[list[int]]:
    """Whose matrices lie in the slots, of each projection."""
    return [
        [int(weight.values[0, 0]) for weight in projection.weights if isinstance(weight, DenseWeight)]
        for projection in (experts.gate, experts.up, experts.down)
    ]


class Rank:
    """A mover, and what it has said."""

    def __init__(self, *shares: ExpertShare, tensor: int = 1, rank: int = 0) -> None:
        self.said: SimpleQueue[Report] = SimpleQueue()
        self.mover = ExpertMover(shares, Mesh(Parallelism(tensor, 2), rank), self.said.put)

    def do(self, order: object) -> None:
        self.mover.handlers[type(order)](order)

    def hears(self) -> Report:
        return self.said.get(timeout=60)


@pytest.mark.parametrize("rank", [0, 1])
def test_only_experts_that_the_rank_does_not_have_are_read(rank: int) -> None:
    read: list[int] = []

    def reading(number: int) -> Expert:
        read.append(number)
        return expert(number)

    staged = share(rank, reading).stage(NEW)
    assert read == [[3], [2]][rank]
    assert (staged.experts, staged.read_bytes) == (1, 3 * MATRIX)
    assert numbers(staged.held.experts) == [list(NEW.slots[rank])] * 3


def test_an_expert_that_stays_is_the_very_same_memory() -> None:
    one = share(0)
    before = {weight.values.data_ptr() for weight in one.experts.gate.weights if isinstance(weight, DenseWeight)}
    staged = one.stage(Placement(((1, 1, 0), (2, 3, 0))))
    assert staged.experts == staged.read_bytes == 0
    after = [
        weight.values.data_ptr() for weight in staged.held.experts.gate.weights if isinstance(weight, DenseWeight)
    ]
    assert set(after) < before
    assert after[0] == after[1]


def test_biases_move_with_their_expert() -> None:
    def biased(number: int) -> Expert:
        gate, up, down = (
            Linear(part.weight, torch.full((part.weight.outputs,), -1.0 * number)) for part in expert(number)
        )
        return gate, up, down

    held = Held(OLD, Replicas.of(OLD, 0, CPU), together([biased(e) for e in OLD.slots[0]]))
    staged = ExpertShare(0, held, biased).stage(NEW)
    assert [float(b[0]) for b in staged.held.experts.up.biases or ()] == [-3, -1, 0]


def test_nothing_changes_before_the_commit() -> None:
    one = share(0)
    rank = Rank(one)
    rank.do(StageLayer(1, 0, NEW))
    answer = rank.hears()
    assert isinstance(answer, LayerStaged)
    assert (answer.move, answer.experts, answer.read_bytes) == (1, 1, 3 * MATRIX)
    assert one.placement == OLD
    rank.do(CommitLayer(1))
    assert one.placement == NEW
    assert numbers(one.experts) == [[3, 1, 0]] * 3
    assert one.replicas.choose(torch.tensor([[3, 2]])).tolist() == [[0, 4]]


def test_handlers_return_while_experts_are_still_read() -> None:
    gate = threading.Event()

    def slow(number: int) -> Expert:
        gate.wait()
        return expert(number)

    one = share(0, slow)
    rank = Rank(one)
    rank.do(StageLayer(1, 0, NEW))
    for _ in range(3):  # steps go on
        rank.do(TakeLoads())
        assert isinstance(rank.hears(), Loads)
    rank.do(DropLayer(1))
    rank.do(StageLayer(2, 0, Placement(((2, 3, 0), (1, 1, 0)))))
    gate.set()
    assert isinstance(first := rank.hears(), LayerStaged)
    assert isinstance(second := rank.hears(), LayerStaged)
    assert (first.move, second.move) == (1, 2)
    rank.do(CommitLayer(2))
    assert numbers(one.experts) == [[2, 3, 0]] * 3


def test_an_expert_that_cannot_be_read_is_reported_and_changes_nothing() -> None:
    def broken(number: int) -> Expert:
        raise OSError("the disk is gone")

    one = share(0, broken)
    rank = Rank(one)
    rank.do(StageLayer(7, 0, NEW))
    assert rank.hears() == LayerFailed(7, "OSError: the disk is gone")
    rank.do(DropLayer(7))
    assert one.placement == OLD


def test_loads_are_counted_from_one_asking_to_the_next() -> None:
    shares = [share(0), share(0)]
    rank = Rank(*shares)
    shares[0].count(torch.tensor([[0, 3], [3, 3]], dtype=torch.int32))
    shares[1].count(torch.tensor([[1, 2]], dtype=torch.int32))
    shares[1].count(torch.empty(0, 2, dtype=torch.int32))
    for expected in ([[1, 0, 0, 3], [0, 1, 1, 0]], [[0] * 4] * 2):
        rank.do(TakeLoads())
        answer = rank.hears()
        assert isinstance(answer, Loads)
        assert answer.counts.tolist() == expected


def test_of_the_ranks_that_divide_a_matrix_one_counts() -> None:
    for number, counting in enumerate([True, False, True, False]):
        one = share(number // 2)
        rank = Rank(one, tensor=2, rank=number)
        one.count(torch.tensor([[0]], dtype=torch.int32))
        rank.do(TakeLoads())
        assert rank.said.empty() is not counting


def test_where_experts_cannot_be_balanced_nothing_is_counted() -> None:
    uneven = Placement(((0, 1), (2,)))
    held = Held(uneven, Replicas.of(uneven, 0, CPU), together([expert(0), expert(1)]))
    one = ExpertShare(0, held, expert)
    rank = Rank(one)
    assert one.counts is None
    rank.do(TakeLoads())
    assert rank.said.empty()
