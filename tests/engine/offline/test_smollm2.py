"""The built-in model in float32: greedy tokens equal to those of transformers, one by one and in batches."""

from collections.abc import Iterator

import pytest

from triptych.core.generation import FinishReason
from triptych.engine import Completion, Engine, SamplingParams

BATCH = 8


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine("builtin:smollm2", dtype="float32", kv_cache_memory=1 << 28)
    yield engine
    engine.core.scheduler.check_integrity()
    assert engine.core.scheduler.pool.held_count == 0


@pytest.fixture
def greedy(reference_length: int) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=reference_length, ignore_eos=False, logprobs=2)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("batch", [1, BATCH])
def test_greedy_tokens_equal_transformers(
    engine: Engine,
    greedy: SamplingParams,
    batch: int,
    reference_prompts: list[str],
    reference_tokens: list[tuple[int, ...]],
) -> None:
    found: list[Completion] = []
    for start in range(0, len(reference_prompts), batch):
        found += engine.generate(reference_prompts[start : start + batch], greedy)
    wrong = [
        _difference(prompt, ours, theirs)
        for prompt, ours, theirs in zip(reference_prompts, found, reference_tokens, strict=True)
        if ours.token_ids != theirs
    ]
    assert not wrong, "\n".join(wrong)
    for completion in found:
        ended = completion.token_ids[-1] in engine.spec.eos_token_ids
        assert completion.finish_reason is (FinishReason.STOP if ended else FinishReason.LENGTH)
    assert {completion.finish_reason for completion in found} == {FinishReason.STOP, FinishReason.LENGTH}


def _difference(prompt: str, ours: Completion, theirs: tuple[int, ...]) -> str:
    """Where two answers part, and how far apart the two likeliest tokens were there."""
    pairs = zip(ours.token_ids, theirs, strict=False)
    place = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours.token_ids), len(theirs)))
    assert ours.logprobs is not None
    top = ours.logprobs[place].top if place < len(ours.logprobs) else ()
    return f"{prompt[:40]!r} at token {place}: {ours.token_ids[place:][:3]} != {theirs[place:][:3]}, top two {top}"
