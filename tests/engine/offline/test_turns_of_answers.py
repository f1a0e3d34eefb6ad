"""Answers that need different experts take turns under a small budget: the same tokens, for fewer reads."""

import random
from pathlib import Path
from typing import Any

import pytest

from tests.support.families import VOCABULARY, save_families
from triptych.core.errors import InvalidArgument
from triptych.engine import Completion, Engine, SamplingParams
from triptych.experts.settings import Fraction, OffloadSettings

ANSWERS, LENGTH = 16, 24


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    return Path(save_families(tmp_path_factory.mktemp("families"), tokenizer))


def offload(*, regroup: bool) -> OffloadSettings:
    """Half of the experts of a layer stay; one family takes no more."""
    return OffloadSettings(
        budget=Fraction(0.625), policy="lru", prefetch="none", warm=False, readers=1, regroup=regroup
    )


def opened(model: Path, settings: OffloadSettings | None, **options: Any) -> Engine:
    return Engine(str(model), dtype="float32", kv_cache_memory=1 << 23, expert_offload=settings, threads=1, **options)


def prompts(seed: int) -> list[list[int]]:
    """In turn of even and of odd tokens."""
    rng = random.Random(seed)
    return [[2 * rng.randrange(2, VOCABULARY // 2 - 1) + place % 2 for _ in range(3)] for place in range(ANSWERS)]


def answers(engine: Engine, asked: list[list[int]]) -> list[Completion]:
    return engine.generate(asked, SamplingParams(temperature=0, max_tokens=LENGTH, ignore_eos=True))


def test_turns_read_less_and_change_no_token(families: Path, seed: int) -> None:
    asked = prompts(seed)
    with opened(families, None) as engine:
        wanted = [answer.token_ids for answer in answers(engine, asked)]
    assert all(token % 2 == place % 2 for place, tokens in enumerate(wanted) for token in tokens)
    reads, steps = {}, {}
    for regroup in (False, True):
        with opened(families, offload(regroup=regroup)) as engine:
            residency = engine.core.decoder.residency
            assert residency is not None
            assert [answer.token_ids for answer in answers(engine, asked)] == wanted
            reads[regroup], steps[regroup] = residency.counts.reads, engine.core.steps
    assert steps[False] == LENGTH
    assert LENGTH < steps[True] <= 2 * LENGTH
    assert reads[True] < 0.7 * reads[False]


def test_nobody_gets_ahead(families: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any time answers that began together are as long, but for a turn."""
    with opened(families, offload(regroup=True)) as engine:
        lengths: list[set[int]] = []
        step = engine.core.step

        def watched(*args: Any) -> Any:
            outcome = step(*args)
            lengths.append({sequence.generated for sequence in engine.core.scheduler.sequences()})
            return outcome

        monkeypatch.setattr(engine.core, "step", watched)
        answers(engine, prompts(seed))
    assert max(max(each) - min(each) for each in lengths if each) <= 4
    assert any(len(each) > 1 for each in lengths)


def test_sampling_draws_the_same_tokens(families: Path, seed: int) -> None:
    found = []
    for regroup in (False, True):
        with opened(families, offload(regroup=regroup), max_running=6) as engine:
            params = SamplingParams(temperature=0.8, seed=seed, max_tokens=9, ignore_eos=True)
            found.append([answer.token_ids for answer in engine.generate(prompts(seed), params)])
    assert found[0] == found[1]


def test_several_ranks_have_no_turns(families: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"experts\.regroup needs a single rank, got 2"):
        opened(families, offload(regroup=True), expert_parallel=2)
