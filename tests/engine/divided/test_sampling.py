"""Ranks that divide the vocabulary take the tokens that one rank takes from the whole logits."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from triptych.core.generation import PositionLogprobs
from triptych.engine.divided import VocabularyShare, sample_divided
from triptych.engine.divided.filters import GATHERED
from triptych.engine.penalties import Seen
from triptych.engine.plan import NoFiniteRows, StepResult
from triptych.engine.sampler import SamplingRow, sample
from triptych.engine.sampling import Sampling
from triptych.parallel import Mesh, Parallelism
from triptych.parallel.testing import run_ranks, run_threads

SIZE = 1000
TOP_K = (0, 1, 7, GATHERED, GATHERED + 1, SIZE - 1, SIZE, 2**31 - 1)
TOP_P = (1.0, 0.95, 0.5, 1e-9, 1 - 2**-53)
MIN_P = (0.0, 0.05, 1.0)
TEMPERATURES = (1.0, 0.3, 3.0, 1e-3, 5e-324)
KINDS = ("usual", "peaked", "tied", "equal", "impossible", "one possible", "far apart", "at a border", "zeros")


def bounds(ranks: int) -> list[int]:
    """Uneven; a rank may have a single token."""
    return {2: [0, 300, SIZE], 3: [0, 500, 501, SIZE], 4: [0, 256, 257, 600, SIZE]}[ranks]


def logits_of(kind: str, rows: int, border: int) -> Tensor:
    logits = 2 * torch.randn(rows, SIZE)
    match kind:
        case "peaked":
            logits = 3 * logits.square()
        case "tied":
            logits = logits.round()
        case "equal":
            logits.fill_(-3.5)
        case "impossible":
            logits[torch.rand(rows, SIZE) < 0.7] = -torch.inf
            logits[:, 0] = 1.0
        case "one possible":
            logits = torch.full_like(logits, -torch.inf).index_fill_(1, torch.randint(SIZE, (1,)), 2.0)
        case "far apart":
            logits *= 1e30
        case "at a border":
            logits[:, border - 3 : border + 3] = 9.0
        case "zeros":
            logits = (logits > 0) * 1.0
            logits[:, ::3] *= -1.0  # some of them -0
    return logits


def divided(ranks: int, logits: Tensor, rows: list[SamplingRow], run: Any = run_threads) -> tuple[StepResult, ...]:
    """What every rank says."""
    cuts = list(itertools.pairwise(bounds(ranks)))

    def one(mesh: Mesh) -> StepResult:
        start, stop = cuts[mesh.attention.rank]
        return sample_divided(logits[:, start:stop].clone(), rows, VocabularyShare(mesh.attention, start, SIZE))

    results: tuple[StepResult, ...] = run(Parallelism(tensor=ranks), one)
    return results


def row(**params: Any) -> SamplingRow:
    """With a number of its own, and an answer that has some tokens."""
    sampling = Sampling(**params)
    tokens = torch.randint(SIZE, (40,)).tolist() * 2
    seen = Seen.of(tokens, 15) if sampling.penalised else None
    return SamplingRow(sampling, int(torch.randint(2**60, ())), len(tokens) - 15, seen)


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_every_combination_of_filters(seed: int, ranks: int, kind: str) -> None:
    filters = list(itertools.product(TOP_K, TOP_P, MIN_P))
    heats = itertools.cycle(TEMPERATURES)
    rows = [row(top_k=k, top_p=p, min_p=m, temperature=next(heats)) for k, p, m in filters]
    logits = logits_of(kind, len(rows), bounds(ranks)[1])
    expected = sample(logits.clone(), rows).token_ids
    for result in divided(ranks, logits, rows):
        assert list(result.token_ids) == list(expected)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_penalties_barred_tokens_and_greedy_rows(seed: int, ranks: int) -> None:
    penalties: tuple[dict[str, float], ...] = (
        {"repetition_penalty": 1.7},
        {"presence_penalty": 1.5},
        {"frequency_penalty": -0.9},
        {},
    )
    ways: tuple[dict[str, float], ...] = (
        {"temperature": 0.0},
        {},
        {"top_k": 9},
        {"top_p": 0.8},
        {"min_p": 0.1, "repetition_penalty": 1e-40},
    )
    rows = [row(**a | b) for a, b in itertools.product(penalties, ways)]
    logits = 2 * torch.randn(len(rows), SIZE)
    likely = frozenset(logits.topk(3).indices.flatten().tolist())
    rows += [row(ends=likely, min_tokens=n, **way) for n, way in itertools.product((0, 1000), ways)]
    logits = torch.cat((logits, logits[: 2 * len(ways)]))
    expected = sample(logits.clone(), rows).token_ids
    for result in divided(ranks, logits, rows):
        assert list(result.token_ids) == list(expected)
    assert likely.isdisjoint(expected[-len(ways) :])


@pytest.mark.parametrize("ranks", [2, 4])
def test_logprobs_are_those_of_the_whole(seed: int, ranks: int) -> None:
    rows = [row(logprobs=n, temperature=t, frequency_penalty=f) for n in (0, 1, 20) for t in (0, 1) for f in (0, 1)]
    rows.insert(2, row())
    logits = 3 * torch.randn(len(rows), SIZE)
    expected = sample(logits.clone(), rows)
    for result in divided(ranks, logits, rows):
        assert list(result.token_ids) == list(expected.token_ids)
        assert result.logprobs.keys() == expected.logprobs.keys()
        for place, whole in expected.logprobs.items():
            assert_alike(result.logprobs[place], whole)


def assert_alike(one: PositionLogprobs, other: PositionLogprobs) -> None:
    assert one.logprob == pytest.approx(other.logprob, abs=1e-5)
    assert [top.token_id for top in one.top] == [top.token_id for top in other.top]
    assert [top.logprob for top in one.top] == pytest.approx([top.logprob for top in other.top], abs=1e-5)


@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf])
def test_rows_without_a_finite_score_are_named_by_every_rank(seed: int, value: float) -> None:
    logits = torch.randn(4, SIZE)
    logits[1, 999] = value
    logits[3] = -torch.inf
    rows = [row(temperature=0), row(temperature=0), row(top_p=0.5), row()]

    def one(mesh: Mesh) -> tuple[int, ...]:
        start = 500 * mesh.attention.rank
        with pytest.raises(NoFiniteRows) as caught:
            sample_divided(logits[:, start : start + 500].clone(), rows, VocabularyShare(mesh.attention, start, SIZE))
        return caught.value.places

    assert run_threads(Parallelism(tensor=2), one) == ((1, 3), (1, 3))


def test_over_gloo_as_over_threads_and_alone(seed: int) -> None:
    filters: list[dict[str, float]] = [
        {"temperature": 0.0},
        {},
        {"top_k": 50, "top_p": 0.9, "logprobs": 3},
        {"top_p": 0.9},
        {"top_k": 400},
    ]
    rows = [row(**params) for params in filters]
    logits = 2 * torch.randn(len(rows), SIZE)
    expected = sample(logits.clone(), rows).token_ids
    assert [list(result.token_ids) for result in divided(3, logits, rows, run_ranks)] == [list(expected)] * 3
    alone = sample_divided(logits.clone(), rows, VocabularyShare(Mesh().attention, 0, SIZE))
    assert list(alone.token_ids) == list(expected)
    assert sample_divided(logits[:0], [], VocabularyShare(Mesh().attention, 0, SIZE)) == StepResult()


@pytest.mark.parametrize("ranks", [2, 4])
def test_bytes_are_those_of_the_formula_whatever_the_vocabulary(seed: int, ranks: int) -> None:
    rows = [row(temperature=0), row(), row(top_k=40, top_p=0.9), row(top_p=0.9), row(top_k=400, top_p=0.9)]
    rows.append(row(temperature=0, logprobs=5))
    logits = torch.randn(len(rows), SIZE)
    cuts = list(itertools.pairwise(bounds(ranks)))

    def sent(mesh: Mesh) -> int:
        start, stop = cuts[mesh.attention.rank]
        sample_divided(logits[:, start:stop].clone(), rows, VocabularyShare(mesh.attention, start, SIZE))
        return mesh.attention.traffic.total_bytes

    drawn, searches, limits, told, best = 4, 3, 2, 1, 40
    expected = 8 * len(rows) * (1 + best) + 16 * drawn + (4 * 2048 + 16) * searches + 8 * limits
    expected += told * (4 + 8 * 5 + 4)
    assert run_threads(Parallelism(tensor=ranks), sent) == (expected * (ranks - 1),) * ranks
