"""Engines whose experts do not all fit give the answers of those that have all of them in memory, bit for bit."""

import gc
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Sequence_
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from triptych.core.errors import FailedPrecondition, InvalidArgument
from triptych.core.generation import OperationKey
from triptych.engine import Completion, Engine, SamplingParams
from triptych.engine.ranks.replica import Replica
from triptych.engine.ranks.testing import RankThreads
from triptych.engine.sampling import Sampling
from triptych.engine.sequence import Sequence
from triptych.experts.settings import Fraction, OffloadSettings
from triptych.parallel.balance import BalancePolicy

Open = Callable[..., Engine]
HALF = OffloadSettings(budget=Fraction(0.5), readers=2)
GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, logprobs=2)
DRAWN = SamplingParams(seed=7, n=2, max_tokens=12, top_k=20, logprobs=3, ignore_eos=True)
TIGHT: dict[str, Any] = {"blocks": 20, "max_batch_tokens": 24, "max_running": 6}
"""So little room that prompts are cut and answers give way to each other."""


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("triptych.engine.engine.Replica", partial(Replica, start=RankThreads))
        yield


def prompts(count: int, low: int = 3, high: int = 60) -> list[list[int]]:
    lengths = torch.randint(low, high, (count,)).tolist()
    return [torch.randint(4, 300, (length,)).tolist() for length in lengths]


def require_same(found: Sequence_[Completion], expected: Sequence_[Completion]) -> None:
    """Tokens and the scores that they had."""
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.token_ids == theirs.token_ids
        assert ours.logprobs == theirs.logprobs
        require_same(ours.others, theirs.others)


def recorded(engine: Engine) -> bool:
    return engine.core.runner._recorder._usable  # type: ignore[attr-defined]


@pytest.mark.parametrize("model", ["mixture", "deepseek"])
def test_batches_cut_prompts_preemption_and_known_prefixes(
    model: str, request: pytest.FixtureRequest, open_engine: Open
) -> None:
    folder, asked = request.getfixturevalue(model), prompts(6, 20, 21)
    resident = open_engine(folder, **TIGHT)
    with open_engine(folder, expert_offload=HALF, **TIGHT) as engine:
        require_same(engine.generate(asked, GREEDY), resident.generate(asked, GREEDY))
        require_same(engine.generate(asked[:3], DRAWN), resident.generate(asked[:3], DRAWN))
        for _ in range(2):  # the second time its beginning is known
            require_same(engine.generate(asked[:1], GREEDY), resident.generate(asked[:1], GREEDY))
        assert engine.core.scheduler.preemptions > 0
        assert engine.core.scheduler.kv.hit_tokens > 0
        assert recorded(engine) == recorded(resident)
        assert engine.core.decoder.residency is not None
        assert engine.core.decoder.residency.counts.steps == engine.core.steps


def test_a_budget_may_be_given_in_words(mixture: Path, open_engine: Open) -> None:
    [asked] = prompts(1)
    with open_engine(mixture, expert_offload="60%") as engine:
        assert len(engine.generate([asked], GREEDY)[0].token_ids) == 24
        residency = engine.core.decoder.residency
    assert residency is not None
    assert residency.counts.steps == 24
    with pytest.raises(FailedPrecondition, match="the engine has been closed"):
        engine.generate([asked], GREEDY)


@pytest.mark.parametrize(
    ("offload", "error", "message"),
    [
        ("much", InvalidArgument, r"experts\.budget must be auto, a share such as 50%, or a size such as 1\.5GiB"),
        (4096, InvalidArgument, r"experts\.budget must hold the experts of one layer: 8 of"),
    ],
)
def test_budgets_that_nothing_fits_are_refused(
    mixture: Path, open_engine: Open, offload: str | int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        open_engine(mixture, expert_offload=offload)


def test_a_model_without_experts_has_no_budget_for_them(llama: Path, open_engine: Open) -> None:
    with pytest.raises((FailedPrecondition, InvalidArgument), match=r"experts\.budget"):
        open_engine(llama, expert_offload="50%")


@pytest.mark.parametrize(
    "divided",
    [
        {"tensor_parallel": 2},
        {"expert_parallel": 2},
        {"tensor_parallel": 2, "expert_parallel": 2, "attention_parallel": "tensor", "redundant_experts": 2},
    ],
    ids=lambda divided: "-".join(map(str, divided.values())),
)
def test_ranks_have_a_pool_each(mixture: Path, open_engine: Open, divided: dict[str, Any]) -> None:
    """Every policy and predictor has its turn in tests/models/experts/test_offloaded_ranks.py."""
    asked, answers = prompts(4), replace(GREEDY, max_tokens=8)
    offload = replace(HALF, budget=Fraction(0.75))  # of what the rank has
    with (
        open_engine(mixture, **divided, **TIGHT) as resident,
        open_engine(mixture, **divided, **TIGHT, expert_offload=offload) as engine,
    ):
        for _ in range(2):
            require_same(engine.generate(asked, answers), resident.generate(asked, answers))
        assert engine.core.decoder.residency is not None
        counts = engine.core.decoder.residency.counts
        assert counts.hits < counts.demanded


def test_experts_move_among_ranks_that_do_not_keep_all_of_theirs(mixture: Path, open_engine: Open) -> None:
    asked, always = prompts(6), BalancePolicy(window=8, threshold=1.0, gain=0.0, rows=1)
    divided: dict[str, Any] = {"expert_parallel": 2, "redundant_experts": 4, "quantization": "int8"}
    divided["prefix_caching"] = False
    with open_engine(mixture, **divided) as resident:
        expected = resident.generate(asked, GREEDY)
    with open_engine(mixture, **divided, expert_offload=HALF, expert_balance=always) as engine:
        assert engine.balancer is not None
        while not (balance := engine.balancer.balance).commits:  # of loads that differ every time
            engine.balancer.force()
            require_same(engine.generate(asked, GREEDY), expected)
        require_same(engine.generate(asked, GREEDY), expected)
    assert balance.given_up == 0


def test_other_processes_keep_experts_of_the_same_file(
    mixture: Path, open_engine: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = prompts(4)
    with open_engine(mixture, expert_parallel=2) as resident:
        expected = resident.generate(asked, GREEDY)
    monkeypatch.setattr("triptych.engine.engine.Replica", Replica)
    with open_engine(mixture, expert_parallel=2, expert_offload="75%") as engine:
        assert len(engine.ranks) == 1
        require_same(engine.generate(asked, GREEDY), expected)


def test_who_has_the_core_of_an_engine_may_compute(mixture: Path, open_engine: Open) -> None:
    core = open_engine(mixture, expert_offload=HALF).core
    gc.collect()
    sequence = Sequence(OperationKey("a"), [5, 6, 7], 3, Sampling(temperature=0.0), 0, 12)
    core.scheduler.add(sequence)
    while sequence.generated < 9:
        core.step()
    residency = core.decoder.residency
    assert residency is not None
    assert residency.counts.steps == core.steps
