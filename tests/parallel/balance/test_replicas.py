"""Which copy of an expert a row goes to."""

import torch

from triptych.parallel.balance import Placement, Replicas

CPU = torch.device("cpu")
PLACEMENT = Placement(((0, 1, 2), (3, 0, 1), (0, 4, 4)))
EXPERTS_OF_SLOTS = torch.tensor(PLACEMENT.by_slot)


def test_every_choice_goes_to_a_slot_of_its_expert() -> None:
    torch.manual_seed(5)
    ids = torch.randint(0, 5, (64, 3), dtype=torch.int32)
    for rank in range(3):
        slots = Replicas.of(PLACEMENT, rank, CPU).choose(ids)
        assert slots.dtype is torch.int32
        assert torch.equal(EXPERTS_OF_SLOTS[slots], ids.long())


def test_a_copy_on_the_own_rank_is_preferred() -> None:
    for rank in range(3):
        replicas = Replicas.of(PLACEMENT, rank, CPU)
        own = [e for e in range(5) if e in PLACEMENT.slots[rank]]
        slots = replicas.choose(torch.tensor([own] * 4, dtype=torch.int32))
        assert (replicas.bounds[rank] <= slots).all()
        assert (slots < replicas.bounds[rank + 1]).all()


def test_rows_take_the_other_ranks_copies_in_turn() -> None:
    ids = torch.zeros(6, 1, dtype=torch.int32)
    away = Placement(((1, 2), (0, 3), (0, 4), (0, 5)))
    assert Replicas.of(away, 0, CPU).choose(ids).flatten().tolist() == [2, 4, 6, 2, 4, 6]
    assert Replicas.of(PLACEMENT, 1, CPU).choose(torch.full((4, 1), 4)).flatten().tolist() == [8, 7, 8, 7]


def test_without_copies_the_slot_is_the_experts_own() -> None:
    ids = torch.tensor([[3, 0], [1, 2]], dtype=torch.int32)
    assert torch.equal(Replicas.of(Placement.even(4, 2), 1, CPU).choose(ids), ids)
    assert Replicas.of(Placement(((2, 3), (1, 0))), 0, CPU).choose(ids).tolist() == [[1, 3], [2, 0]]


def test_no_rows_choose_nothing() -> None:
    assert Replicas.of(PLACEMENT, 0, CPU).choose(torch.empty(0, 2, dtype=torch.int32)).shape == (0, 2)
