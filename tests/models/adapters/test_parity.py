"""Adapters against transformers with the same products merged into its weights: logits, and greedy answers."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen2MoeConfig,
)

from triptych.models.decoder import Decoder
from triptych.models.files import ModelFiles
from triptych.models.spec import read_spec

PROMPT, ANSWER = 70, 32
CLEAR = 1e-3
"""By how much of the largest score the likeliest token leads: less may be turned around by rounding."""
SIZES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.2,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "qwen2": Qwen2Config(**SIZES),
    "phi3": Phi3Config(**SIZES),
    "qwen2_moe": Qwen2MoeConfig(
        **SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=48, shared_expert_intermediate_size=56,
        mlp_only_layers=[1],
    ),
    "gemma3": Gemma3TextConfig(**SIZES, head_dim=16, sliding_window=21, query_pre_attn_scalar=20),
}  # fmt: skip


@torch.no_grad()
def question(model: Any) -> tuple[Tensor, Tensor]:
    """A prompt and transformers' greedy answer, no token of which a rounding could have changed."""
    for _ in range(50):
        prompt = torch.randint(3, 97, (PROMPT,))
        found = model.generate(
            prompt.unsqueeze(0), max_new_tokens=ANSWER, min_new_tokens=ANSWER, do_sample=False, eos_token_id=None
        )[0]
        best = model(found.unsqueeze(0)).logits[0, PROMPT - 1 :].topk(2).values
        if ((best[:, 0] - best[:, 1]) > CLEAR * best[:, 0].abs()).all():
            return prompt, found[PROMPT:]
    raise AssertionError("no prompt of 50 has an answer that is clear")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_of_adapters_answers_as_transformers_with_merged_weights(
    name: str, tmp_path: Path, kinds: Mapping[str, Callable[[], Any]], batch: Any
) -> None:
    model = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32, attn_implementation="eager")
    model.train(False)
    model.save_pretrained(tmp_path / "model")
    adapters = {kind: make().draw(model) for kind, make in kinds.items()}
    folders = {kind: adapter.save(tmp_path / kind) for kind, adapter in adapters.items()}
    files = ModelFiles("tiny", tmp_path / "model", "safetensors")
    decoder = Decoder.load(files, read_spec(files), torch.float32, adapters=folders)

    order = ["one layer", "", "attention", "everything", "attention"]
    theirs = {"": model} | {kind: adapter.merged(model) for kind, adapter in adapters.items()}
    questions = [question(theirs[kind]) for kind in order]
    prompts, answers = (torch.stack(tensors) for tensors in zip(*questions, strict=True))
    running = batch(decoder, order)
    logits = torch.cat([running.feed(chunk) for chunk in prompts.split(24, dim=1)], dim=1)
    for kind, prompt, row in zip(order, prompts, logits, strict=True):
        with torch.no_grad():
            expected = theirs[kind](prompt.unsqueeze(0)).logits[0]
        off = (row - expected).abs().amax(-1) / expected.abs().amax(-1)
        assert off.max() <= 1e-4, f"{kind or 'no adapter'}: position {int(off.argmax())} is off by {off.max():.2e}"
    found = [logits[:, -1].argmax(-1)]
    while len(found) < ANSWER:
        found.append(running.feed(found[-1].unsqueeze(1))[:, 0].argmax(-1))
    assert torch.stack(found, dim=1).tolist() == answers.tolist()
