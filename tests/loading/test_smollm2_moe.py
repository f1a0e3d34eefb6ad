"""builtin:smollm2-moe, as a checkpoint that transformers loads, and the answers of both."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, MixtralForCausalLM

from triptych.core.prompt import ChatMessage, TextPart
from triptych.engine import Engine, SamplingParams
from triptych.models.checkpoint import open_checkpoint
from triptych.models.files import ModelFiles
from triptych.models.resolve import resolve
from triptych.models.smollm2_moe import DATA
from triptych.models.sources import SafetensorsSource
from triptych.models.weights import open_weights

LENGTH = 24
PROMPTS = (
    "Once upon a time, in a village by the sea,",
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nWhat is the capital of Japan?<|im_end|>\n<|im_start|>assistant\n",
)


@pytest.fixture(scope="module")
def split() -> ModelFiles:
    return resolve("builtin:smollm2-moe")


def test_greedy_answers_are_those_of_transformers(split: ModelFiles) -> None:
    model: Any = MixtralForCausalLM.from_pretrained(split.path, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(split.path)
    expected = []
    for prompt in PROMPTS:
        token_ids = tokenizer(prompt, return_tensors="pt").input_ids
        answer = model.generate(token_ids, max_new_tokens=LENGTH, do_sample=False)[0, token_ids.shape[1] :]
        expected.append(tuple(answer.tolist()))
    del model
    engine = Engine("builtin:smollm2-moe", dtype="float32", kv_cache_memory=64 << 20)
    chat = [ChatMessage("user", (TextPart("What is the capital of Japan?"),))]
    greedy = SamplingParams(temperature=0, max_tokens=LENGTH, ignore_eos=False)
    prompts: list[str | list[ChatMessage]] = [*PROMPTS, chat]
    answers = engine.generate(prompts, greedy)
    assert [answer.token_ids for answer in answers[:-1]] == expected
    assert answers[-1].token_ids == expected[-1]
    assert engine.core.runner._recorder.recorded > 0


def test_every_neuron_has_one_expert(split: ModelFiles, smollm2: ModelFiles) -> None:
    """The first layer's projections, put together again, are the dense ones but for the change of rank 16."""
    dense, mixture = (open_weights(open_checkpoint(files), torch.bfloat16) for files in (smollm2, split))
    owners = SafetensorsSource(DATA / "delta.safetensors").read("model.layers.0.mlp.asg", 0, 1536)
    assert np.bincount(owners).tolist() == [48] * 32
    place = torch.from_numpy(owners.argsort(kind="stable"))
    for part, name, turned in (("w1", "gate_proj", False), ("w3", "up_proj", False), ("w2", "down_proj", True)):
        experts = "model.layers.0.block_sparse_moe.experts"
        pieces = [mixture.tensor(f"{experts}.{expert}.{part}.weight").float() for expert in range(32)]
        together = torch.cat([piece.T / 12 if turned else piece for piece in pieces])
        plain = dense.tensor(f"model.layers.0.mlp.{name}.weight").float()
        change = together - (plain.T if turned else plain)[place]
        values = torch.linalg.svdvals(change)
        assert values[15] > 3 * values[16], "more than 16 directions changed"
