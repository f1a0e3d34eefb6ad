"""What a rank has read in advance by scores of all experts: those that it has, and its part of each row's."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from triptych.models.predictor import Ring, Routed, ScoreRows
from triptych.models.rank_experts import RankExperts

CPU = torch.device("cpu")
HELD = [(4, 5, 6, 7), (6, 1, 3)]


@dataclass
class Pool:
    """Remembers what it was asked for."""

    asked: list[tuple[int, Tensor, int]] = field(default_factory=list)
    bound: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)

    def prefetch(self, layer: int, scores: Tensor, top: int) -> None:
        assert scores.stride(-1) == 1  # kernels take rows whose numbers lie side by side
        self.asked.append((layer, scores.clone(), top))

    def rebind(self, layer: int, experts: tuple[int, ...]) -> None:
        self.bound.append((layer, experts))


def of_rank(pool: Any, held: list[tuple[int, ...]]) -> RankExperts:
    return RankExperts(pool, [8] * len(held), held, CPU)


@pytest.mark.parametrize(("top", "parts"), [(1, (1, 1)), (2, (1, 1)), (3, (2, 2)), (8, (4, 3))])
def test_of_each_row_the_rank_reads_its_part(top: int, parts: tuple[int, int]) -> None:
    pool, scores = Pool(), torch.randn(5, 8)
    rank = of_rank(pool, HELD)
    for mixture in (0, 1):
        rank.prefetch(mixture, scores, top)
    for mixture, (asked, own) in enumerate(zip(pool.asked, HELD, strict=True)):
        assert (asked[0], asked[2]) == (mixture, parts[mixture])
        assert torch.equal(asked[1], torch.stack([scores[:, expert] for expert in own], 1))


def test_who_has_all_passes_scores_on_as_they_are() -> None:
    pool, scores = Pool(), torch.randn(3, 8)
    of_rank(pool, [tuple(range(8))]).prefetch(0, scores, 3)
    [(mixture, asked, top)] = pool.asked
    assert (mixture, top) == (0, 3)
    assert torch.equal(asked, scores)


def test_after_a_move_the_others_are_read() -> None:
    pool, scores = Pool(), torch.randn(2, 8)
    rank = of_rank(pool, HELD)
    rank.rebind(1, (0, 7, 2))
    rank.prefetch(1, scores, 8)
    assert pool.bound == [(1, (0, 7, 2))]
    assert torch.equal(pool.asked[0][1], scores[:, [0, 7, 2]])


def test_the_ring_reads_all_that_the_rank_has() -> None:
    pool = Pool()
    ring = Ring((torch.zeros(1, 8), torch.zeros(1, 8)), of_rank(pool, HELD).prefetch)
    ring.ahead(0, torch.empty(0))
    ring.ahead(1, torch.empty(0))
    [(mixture, scores, top)] = pool.asked
    assert (mixture, scores.shape, top) == (1, (1, 3), 3)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_a_route_gives_each_mixture_its_own_columns(rows: int) -> None:
    pool, all_scores = Pool(), torch.randn(rows, 16)
    acts: Any = SimpleNamespace(residual=torch.empty(rows, 2))

    def score(embedded: Tensor, scores: Tensor) -> None:
        scores.copy_(all_scores)

    routed, step = Routed(score, (2, 2), of_rank(pool, HELD).prefetch, ScoreRows(16, CPU)), cast(Any, None)
    routed.begin(step, acts)
    routed.ahead(0, torch.empty(0))
    routed.ahead(1, torch.empty(0))
    assert [mixture for mixture, *_ in pool.asked] == [0, 1]
    for (mixture, scores, _), own in zip(pool.asked, HELD, strict=True):
        assert torch.equal(scores, all_scores[:, [8 * mixture + expert for expert in own]])
