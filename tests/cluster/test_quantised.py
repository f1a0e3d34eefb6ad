"""Quantised weights through a cluster: prefill and decode workers agree on the order of keys and on their form."""

from typing import Any

import pytest

from triptych.core.errors import InvalidArgument
from triptych.models.resolve import resolve

TOKENS = 4


def test_blocks_of_a_gguf_answer_as_the_offline_engine_does_without_them(
    start: Any, oracle: Any, answers: Any
) -> None:
    model, prompt = resolve("builtin:smollm2").path, "The capital of France is"
    expected = oracle.tokens(model, prompt, TOKENS)
    cluster = start(model, "1P1D", quantization="gguf", kv_cache__memory="16MiB")
    assert answers(cluster, [prompt], TOKENS) == [expected]
    decode, prefill = (cluster.host(f"{role}-0").panel.decoding.stage for role in ("decode", "prefill"))
    assert (prefill.prefilled_tokens > 0, decode.prefilled_tokens) == (True, 0)


def test_blocks_are_refused_where_there_are_none(start: Any, tiny_llama: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"quantization gguf needs a \.gguf file"):
        start(tiny_llama, "1D", quantization="gguf")
