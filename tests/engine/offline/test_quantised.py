"""The built-in model with its matrices quantised."""

from collections.abc import Sequence

import pytest

from triptych.core.errors import InvalidArgument
from triptych.engine import Completion, Engine, SamplingParams


@pytest.mark.timeout(900)
def test_blocks_of_a_gguf_give_the_tokens_of_transformers_which_dequantises_them(
    reference_prompts: list[str], reference_tokens: list[tuple[int, ...]], reference_length: int
) -> None:
    engine = Engine(
        "builtin:smollm2", dtype="float32", quantization="gguf", kv_cache_memory=1 << 29, max_batch_tokens=2048
    )
    params = SamplingParams(temperature=0, max_tokens=reference_length)
    found = engine.generate(reference_prompts, params)
    assert [completion.token_ids for completion in found] == reference_tokens


def test_int8_stays_close_to_bfloat16(reference_prompts: list[str]) -> None:
    """The same first token nearly always, and nearly the same probability of it."""
    params = SamplingParams(temperature=0, max_tokens=1, logprobs=1)
    plain, rounded = (
        Engine("builtin:smollm2", dtype="bfloat16", quantization=form, kv_cache_memory=1 << 28).generate(
            reference_prompts, params
        )
        for form in ("none", "int8")
    )
    agreeing = [ours.token_ids == theirs.token_ids for ours, theirs in zip(rounded, plain, strict=True)]
    assert sum(agreeing) >= len(agreeing) - 2
    off = [abs(a - b) for a, b in zip(first_logprobs(rounded), first_logprobs(plain), strict=True)]
    assert sorted(off)[len(off) // 2] < 0.2


def first_logprobs(completions: Sequence[Completion]) -> list[float]:
    return [completion.logprobs[0].logprob for completion in completions if completion.logprobs]


def test_a_form_that_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="quantization must be none, int8 or gguf, got 'int4'"):
        Engine("builtin:smollm2", quantization="int4")
