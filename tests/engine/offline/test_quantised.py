"""The built-in model with its matrices quantised."""

import pytest

from triptych.core.errors import InvalidArgument
from triptych.engine import Engine, SamplingParams


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


def test_a_form_that_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="quantization must be none, int8 or gguf, got 'int4'"):
        Engine("builtin:smollm2", quantization="int4")
