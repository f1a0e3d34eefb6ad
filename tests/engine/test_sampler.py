"""Tokens from logits: against transformers' processors, against float64, and reproducible by seed."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tests.support.seeds import drawn_seed
from triptych.core.sampling import MAX_LOGPROBS, SamplingParams
from triptych.engine.drawing import Draw, draw
from triptych.engine.penalties import Seen, penalise
from triptych.engine.sampler import SamplingRow, sample, uniform
from triptych.engine.sampling import Sampling

ONE_IN_A_MILLION = 42.70  # chi-square of 8 degrees of freedom
MAX_SEED = 2**64 - 1


def row(seed: int = 0, token_ids: tuple[int, ...] = (1,), prompt_length: int = 1, **params: Any) -> SamplingRow:
    sampling = Sampling(**params)
    seen = Seen.of(token_ids, prompt_length) if sampling.penalised else None
    return SamplingRow(sampling, seed, len(token_ids) - prompt_length, seen)


def chosen(logits: Tensor, *rows: SamplingRow) -> list[int]:
    return list(sample(logits.expand(len(rows), -1).clone(), list(rows)).token_ids)


@pytest.mark.parametrize("penalty", [0.3, 0.99, 1.2, 100.0])
def test_the_repetition_penalty_is_that_of_transformers(seed: int, penalty: float) -> None:
    logits, seen = 5 * torch.randn(200), torch.randint(0, 200, (50,))
    expected = RepetitionPenaltyLogitsProcessor(penalty)(seen[None], logits[None].clone())[0]
    penalise(logits, Sampling(repetition_penalty=penalty), Seen.of(seen.tolist(), 20))
    torch.testing.assert_close(logits, expected, rtol=0, atol=0)


@pytest.mark.parametrize("prompt_length", [0, 20, 50])
def test_presence_and_frequency_count_the_answer_alone(seed: int, prompt_length: int) -> None:
    logits, seen = 5 * torch.randn(30), torch.randint(0, 30, (50,)).tolist()
    expected = logits.double().numpy().copy()
    for token, times in Counter(seen[prompt_length:]).items():
        expected[token] -= 0.7 + -0.3 * times
    penalise(logits, Sampling(presence_penalty=0.7, frequency_penalty=-0.3), Seen.of(seen, prompt_length))
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spread", [0.1, 1.0, 6.0])
def test_each_filter_keeps_what_transformers_keeps(seed: int, spread: float) -> None:
    evenly = [(i + 0.5) / 1000 for i in range(1000)]
    for _ in range(5):
        logits = spread * torch.randn(300)
        k, p, share = int(torch.randint(1, 350, ())), float(torch.rand(())), float(torch.rand(()))
        warpers: list[tuple[dict[str, Any], Any]] = [
            ({"top_k": k}, TopKLogitsWarper(k)),
            ({"top_p": p}, TopPLogitsWarper(p)),
            ({"min_p": share}, MinPLogitsWarper(share)),
        ]
        for params, warper in warpers:
            scores = warper(None, logits[None].double())[0].softmax(-1)
            drawn = set(draw(logits.expand(1000, -1), [Draw(Sampling(**params), u) for u in evenly]))
            assert drawn <= set(scores.nonzero()[:, 0].tolist())
            assert drawn >= set((scores > 1.01e-3).nonzero()[:, 0].tolist())


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.4},
        {"temperature": 1.6, "repetition_penalty": 1.5},
        {"top_k": 4},
        {"top_p": 0.7},
        {"min_p": 0.15},
        {"temperature": 1.3, "top_k": 6, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.2},
    ],
    ids=str,
)
def test_tokens_are_drawn_with_the_probabilities_of_transformers(seed: int, params: dict[str, Any]) -> None:
    logits, prompt, draws = 1.5 * torch.randn(8), (1, 3, 3, 5), 6000
    expected = _processed(logits, prompt, params).softmax(-1)
    first = drawn_seed(63)
    rows = [row(first + i, prompt, len(prompt), **params) for i in range(draws)]
    counts = torch.bincount(torch.tensor(chosen(logits, *rows)), minlength=8).double()
    assert counts[expected == 0].sum() == 0
    often = draws * expected > 10  # the statistic means nothing for tokens that are hardly ever drawn
    statistic = ((counts - draws * expected) ** 2 / (draws * expected))[often].sum()
    assert statistic < ONE_IN_A_MILLION, (first, counts, draws * expected)


def _processed(logits: Tensor, prompt: tuple[int, ...], params: dict[str, Any]) -> Tensor:
    p = Sampling(**params)
    chain = LogitsProcessorList()
    if p.repetition_penalty != 1:
        chain.append(RepetitionPenaltyLogitsProcessor(p.repetition_penalty))
    if p.temperature != 1:
        chain.append(TemperatureLogitsWarper(float(p.temperature)))
    if p.top_k:
        chain.append(TopKLogitsWarper(p.top_k))
    if p.top_p < 1:
        chain.append(TopPLogitsWarper(p.top_p))
    if p.min_p:
        chain.append(MinPLogitsWarper(p.min_p))
    scores: Tensor = chain(torch.LongTensor([prompt]), logits[None].double())
    return scores[0]


def test_a_seed_gives_the_same_tokens_in_any_company_and_order(seed: int) -> None:
    logits = 2 * torch.randn(16, 500)
    variants: list[dict[str, Any]] = [{}, {"top_k": 40}, {"top_p": 0.9}, {"temperature": 0}, {"min_p": 0.1}]
    rows = [row(drawn_seed(64), (1,) * (i + 1), i % 3, **variants[i % 5]) for i in range(16)]
    alone = [chosen(logits[i], rows[i])[0] for i in range(16)]
    for order in (list(range(16)), torch.randperm(16).tolist(), torch.randperm(16)[:5].tolist()):
        together = sample(logits[order].clone(), [rows[i] for i in order])
        assert together.token_ids == [alone[i] for i in order]


def test_a_draw_depends_on_the_seed_and_on_how_many_tokens_were_generated() -> None:
    assert uniform(row(7, (1, 2, 3), 3)) == uniform(row(7, (9,) * 100, 100))
    numbers = [uniform(row(seed, (1,) * length, 1)) for seed in (0, 1, 2, 2**63, MAX_SEED) for length in range(1, 50)]
    assert len(set(numbers)) == len(numbers)
    assert all(0 <= u < 1 for u in numbers)
    assert abs(float(np.mean(numbers)) - 0.5) < 0.1


@pytest.mark.parametrize("seed_", [0, 1, 2**32, 2**63, MAX_SEED])
def test_every_seed_can_be_used(seed_: int) -> None:
    logits = torch.zeros(1000)
    answers = [chosen(logits, row(seed_, (1,) * n, 1))[0] for n in range(1, 30)]
    assert answers == [chosen(logits, row(seed_, (5,) * (n + 3), 4))[0] for n in range(1, 30)]
    assert len(set(answers)) > 20


def test_greedy_takes_the_likeliest_whatever_the_seed_and_the_filters(seed: int) -> None:
    logits = torch.randn(100)
    for params in ({}, {"top_k": 3}, {"top_p": 0.1}, {"min_p": 0.9}):
        rows = [row(s, temperature=0, **params) for s in (0, drawn_seed(64), MAX_SEED)]
        assert chosen(logits, *rows) == [int(logits.argmax())] * 3


def test_greedy_heeds_penalties() -> None:
    logits = torch.tensor([3.0, 2.9, -1.0])
    assert chosen(logits, row(0, (0,), 1, temperature=0)) == [0]
    assert chosen(logits, row(0, (0,), 1, temperature=0, repetition_penalty=1.1)) == [1]
    assert chosen(logits, row(0, (0,), 1, temperature=0, presence_penalty=1.0)) == [0]
    assert chosen(logits, row(0, (0,), 0, temperature=0, presence_penalty=1.0)) == [1]
    assert chosen(logits, row(0, (0,) * 9, 0, temperature=0, frequency_penalty=0.1)) == [1]


@pytest.mark.parametrize("params", [{"temperature": 0}, {}, {"temperature": 100.0}, {"top_k": 3}, {"top_p": 0.5}])
def test_no_answer_ends_before_its_fewest_tokens(seed: int, params: dict[str, Any]) -> None:
    logits = torch.randn(50)
    likely = logits.topk(3).indices.tolist()
    logits[likely] += 20
    ends = frozenset(likely)
    early = [row(s, (1,) * 4, 2, ends=ends, min_tokens=3, **params) for s in range(200)]
    assert ends.isdisjoint(chosen(logits, *early))
    late = [row(s, (1,) * 5, 2, ends=ends, min_tokens=3, **params) for s in range(200)]
    assert not ends.isdisjoint(chosen(logits, *late))


def test_log_probabilities_are_those_before_tokens_were_barred(seed: int) -> None:
    logits = torch.randn(30)
    ends = frozenset({int(logits.argmax())})
    result = sample(logits[None].clone(), [row(0, ends=ends, min_tokens=1, logprobs=30)])
    expected = logits.log_softmax(-1)
    assert set(result.token_ids).isdisjoint(ends)
    for token in result.logprobs[0].top:
        assert token.logprob == pytest.approx(float(expected[token.token_id]), abs=1e-5)


def test_only_what_takes_the_likeliest_as_it_is_needs_no_scores() -> None:
    assert Sampling(temperature=0).plain
    assert Sampling(temperature=0, ends=frozenset({1})).plain
    for params in ({}, {"logprobs": 0}, {"repetition_penalty": 1.1}, {"min_tokens": 1, "ends": frozenset({1})}):
        assert not Sampling(**({"temperature": 0} | params if params else {})).plain


def test_what_nobody_has_set_is_neutral() -> None:
    assert Sampling.of(SamplingParams(), (7,)) == Sampling(ends=frozenset({7}))
    asked = SamplingParams(temperature=0, top_k=3, ignore_eos=True, min_tokens=2, logprobs=1, min_p=0.1)
    assert Sampling.of(asked, (7,)) == Sampling(temperature=0, top_k=3, min_tokens=2, logprobs=1, min_p=0.1)


@pytest.mark.parametrize("penalty", [1e-300, 1e-40, 5e-324])
def test_a_penalty_that_overflows_takes_the_token_it_favours(penalty: float) -> None:
    logits = torch.tensor([1.0, 5.0, 2.0, -1.0])
    for temperature in (0, 1.0):
        assert chosen(logits, row(3, (2, 3), 2, repetition_penalty=penalty, temperature=temperature)) == [2]


@pytest.mark.parametrize("count", [0, 1, 5, MAX_LOGPROBS])
def test_logprobs_are_those_of_the_model_itself(seed: int, count: int) -> None:
    logits = 4 * torch.randn(3, 200)
    expected = logits.double().log_softmax(-1)
    rows = [
        row(1, (7,) * 4, 1, logprobs=count),
        row(2, (7,) * 4, 1, logprobs=count, temperature=0.3, top_k=50, repetition_penalty=2, frequency_penalty=2),
        row(3, (7,) * 4, 1, logprobs=count, temperature=0),
    ]
    result = sample(logits, rows)
    for place, (token_id, raw) in enumerate(zip(result.token_ids, expected, strict=True)):
        logprobs = result.logprobs[place]
        assert logprobs.logprob == pytest.approx(float(raw[token_id]), abs=1e-4)
        values, ids = raw.topk(count)
        assert [top.token_id for top in logprobs.top] == ids.tolist()
        assert [top.logprob for top in logprobs.top] == pytest.approx(values.tolist(), abs=1e-4)


def test_logprobs_come_only_where_they_are_asked_for() -> None:
    rows = [row(0), row(0, logprobs=2), row(0)]
    assert list(sample(torch.zeros(3, 5), rows).logprobs) == [1]


def test_a_small_vocabulary_has_fewer_alternatives_than_asked_for() -> None:
    result = sample(torch.tensor([[0.0, 1.0, 2.0]]), [row(logprobs=MAX_LOGPROBS)])
    assert [top.token_id for top in result.logprobs[0].top] == [2, 1, 0]
