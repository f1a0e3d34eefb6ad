"""Prefill and decode workers that divide the model among different numbers of ranks: the tokens are those of one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.doubt import doubtful_rows
from triptych.engine import Engine, SamplingParams
from triptych.models.testing import save_adapter

TOKENS = 10
UNEQUAL = [(2, 1), (1, 2), (2, 4), (4, 2)]  # the tiny models have 2 KV heads: with 4 ranks each is there twice

StartUnequal = Callable[..., Any]


@pytest.fixture
def start_unequal(start: Any) -> StartUnequal:
    """Starts encode, prefill and decode workers of so many ranks."""

    def begin(model: Path, prefill: int, decode: int, *, encode: int = 0, **settings: Any) -> Any:
        stages = {
            "encode": {"replicas": encode},
            "prefill": {"replicas": 1, "tensor_parallel": prefill},
            "decode": {"replicas": 1, "tensor_parallel": decode},
        }
        return start(model, "auto", stages=stages, **settings)

    return begin


def require_split(cluster: Any) -> None:
    """The prefill worker has read the prompts, and every rank of the decode worker has received its part of it."""
    decode, prefill = (cluster.host(f"{role}-0").panel.decoding.stage for role in ("decode", "prefill"))
    assert (prefill.prefilled_tokens > 0, decode.prefilled_tokens) == (True, 0)
    assert all(receiver.counts.chunks > 0 for receiver in cluster.receivers("decode-0"))


@pytest.mark.parametrize(("prefill", "decode"), UNEQUAL)
def test_images_and_texts_through_all_three_stages(
    start_unequal: StartUnequal, tiny_llava: Path, oracle: Any, ask: Any, answers: Any, prefill: int, decode: int
) -> None:
    questions = oracle.questions(tiny_llava, lambda: ask(3, images=2), 3, TOKENS)
    questions += oracle.questions(tiny_llava, lambda: ask(5), 3, TOKENS)
    cluster = start_unequal(tiny_llava, prefill, decode, encode=1)
    assert answers(cluster, [prompt for prompt, _ in questions], TOKENS) == [tokens for _, tokens in questions]
    require_split(cluster)


@pytest.mark.parametrize(("prefill", "decode"), UNEQUAL)
def test_prompts_in_chunks_that_begin_alike(
    start_unequal: StartUnequal, tiny_llama: Path, oracle: Any, ask: Any, answers: Any, prefill: int, decode: int
) -> None:
    shared = ask(8)
    questions = oracle.questions(tiny_llama, lambda: f"{shared} {ask(6)}", 4, TOKENS)
    cluster = start_unequal(
        tiny_llama, prefill, decode, scheduler__max_batch_tokens=16, scheduler__max_running=8, transfer__backend="tcp"
    )
    (first, expected), *rest = questions
    assert answers(cluster, [first], TOKENS) == [expected]
    assert answers(cluster, [prompt for prompt, _ in rest], TOKENS) == [tokens for _, tokens in rest]
    require_split(cluster)
    cache = cluster.host("prefill-0").panel.decoding.stage.core.scheduler.kv
    assert cache.hit_tokens >= len(rest) * (len(shared) // 4 * 4)


def test_latents_are_whole_on_every_rank(
    start_unequal: StartUnequal, tiny_deepseek: Path, oracle: Any, ask: Any, answers: Any
) -> None:
    questions = oracle.questions(tiny_deepseek, lambda: ask(4), 3, TOKENS)
    cluster = start_unequal(tiny_deepseek, 2, 4)
    assert answers(cluster, [prompt for prompt, _ in questions], TOKENS) == [tokens for _, tokens in questions]
    require_split(cluster)


@pytest.mark.parametrize(("prefill", "decode"), [(1, 2), (4, 2)])
def test_an_adapter(
    start_unequal: StartUnequal, tiny_llama: Path, tmp_path: Path, ask: Any, answers: Any, prefill: int, decode: int
) -> None:
    rows = {"self_attn.q_proj": (48, 256), "self_attn.o_proj": (256, 48), "mlp.up_proj": (48, 80)}
    factors = {
        f"model.layers.{layer}.{name}": (torch.randn(4, inputs), torch.randn(outputs, 4) * 0.2)
        for layer in range(2)
        for name, (inputs, outputs) in rows.items()
    }
    targets = [name.split(".")[1] for name in rows]
    adapters = {"one": str(save_adapter(tmp_path / "one", factors, r=4, target_modules=targets))}
    engine = Engine(str(tiny_llama), dtype="float32", kv_cache_memory=1 << 22, adapters=adapters)
    params = SamplingParams(temperature=0, ignore_eos=True, max_tokens=TOKENS, logprobs=0)
    expected: list[tuple[int, ...]] = []
    while len(set(expected)) < 2:  # the adapter has an answer of its own, and none is a matter of rounding
        prompt = ask(6)
        with doubtful_rows() as doubtful:
            expected = [engine.generate([prompt], params, adapter=name)[0].token_ids for name in ("", "one")]
        if doubtful:
            expected = []
    cluster = start_unequal(tiny_llama, prefill, decode, adapters=adapters)
    assert [answers(cluster, [prompt], TOKENS, adapter=name)[0] for name in ("", "one")] == expected
    require_split(cluster)


@pytest.mark.parametrize(("prefill", "decode"), [(2, 1), (2, 4)])
def test_int8_weights(
    start_unequal: StartUnequal, tiny_llama: Path, oracle: Any, ask: Any, answers: Any, prefill: int, decode: int
) -> None:
    engine = Engine(str(tiny_llama), dtype="float32", quantization="int8", kv_cache_memory=1 << 22)
    # A rank rounds the activations that go into its own columns: the scale of 64 of them is another one.
    int8 = replace(oracle, engines={tiny_llama: engine}, margin=0.2)
    questions = int8.questions(tiny_llama, lambda: ask(5), 6, 4)
    cluster = start_unequal(tiny_llama, prefill, decode, quantization="int8")
    assert answers(cluster, [prompt for prompt, _ in questions], 4) == [tokens for _, tokens in questions]
    require_split(cluster)
