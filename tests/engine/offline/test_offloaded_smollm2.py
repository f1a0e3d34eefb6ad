"""The built-in mixture, of which a part is in memory: greedy answers are those of the whole."""

from collections.abc import Iterator

import pytest

from triptych.engine import Completion, Engine, SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True, logprobs=2)
MODEL, KV = "builtin:smollm2-moe", 1 << 26


def ask(engine: Engine, prompts: list[str]) -> list[Completion]:
    """One of them alone, then all together."""
    return [*engine.generate(prompts[:1], GREEDY), *engine.generate(prompts, GREEDY)]


@pytest.fixture(scope="module")
def asked(reference_prompts: list[str]) -> list[str]:
    return [reference_prompts[place] for place in (0, 3, 15)]


@pytest.fixture(scope="module")
def expected(asked: list[str]) -> list[Completion]:
    resident = Engine(MODEL, kv_cache_memory=KV)
    return ask(resident, asked)


@pytest.fixture(scope="module", params=["10%", "50%"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with Engine(MODEL, kv_cache_memory=KV, expert_offload=request.param) as engine:
        yield engine


def test_greedy_answers_are_those_of_resident_experts(
    engine: Engine, asked: list[str], expected: list[Completion]
) -> None:
    for ours, theirs in zip(ask(engine, asked), expected, strict=True):
        assert ours.token_ids == theirs.token_ids
        assert ours.logprobs == theirs.logprobs
    residency = engine.core.decoder.residency
    assert residency is not None
    counts = residency.counts
    assert counts.steps == engine.core.steps
    assert counts.demanded == counts.hits + counts.covered + counts.misses
    assert counts.misses > 0
    assert counts.failed_reads == 0
