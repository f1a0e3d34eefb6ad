"""Models of packed weights: logits of the float model that the packing stands for, in every form that we serve."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from triptych.core.errors import DataLoss
from triptych.kernels import AttentionBatch
from triptych.models.decoder import Decoder
from triptych.models.files import ModelFiles
from triptych.models.quantization import Quantization
from triptych.models.spec import read_spec
from triptych.models.step import StepInput

PROMPT = 40


def tiny() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=256,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def pack(model: LlamaForCausalLM, packing: Any, rng: np.random.Generator) -> dict[str, Tensor]:
    """The model's tensors, its linears packed; its own weights become those that the packing stands for."""
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, module in model.model.layers.named_modules():
        if isinstance(module, torch.nn.Linear):
            stem = f"model.layers.{name}"
            arrays, dense = packing.pack(rng, module.out_features, module.in_features)
            del tensors[f"{stem}.weight"]
            tensors |= {stem + ending: array for ending, array in arrays.items()}
            module.weight.data = torch.from_numpy(np.ascontiguousarray(dense))
    return tensors


def write(folder: Path, model: LlamaForCausalLM, tensors: Mapping[str, Tensor], settings: object) -> ModelFiles:
    folder.mkdir()
    config = model.config.to_dict() | {"architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    save_file(dict(tensors), folder / "model.safetensors")
    return ModelFiles("packed", folder, "safetensors")


def load(files: ModelFiles, quantization: Quantization = "none") -> Decoder:
    return Decoder.load(files, read_spec(files), torch.float32, quantization=quantization)


def logits_of(decoder: Decoder, prompt: Tensor) -> Tensor:
    rows = torch.arange(len(prompt))
    batch = AttentionBatch(
        query_start=torch.tensor([0, len(prompt)], dtype=torch.int32),
        kv_lengths=torch.tensor([len(prompt)], dtype=torch.int32),
        block_tables=torch.arange(3, dtype=torch.int32).unsqueeze(0),
    )
    kv = torch.zeros(decoder.kv_shape(3, 16))
    return decoder.forward(StepInput(prompt, rows, rows, batch, rows), kv)


def test_logits_are_those_of_the_float_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator, packing: Any
) -> None:
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(int(rng.integers(2**32)))
    model = tiny()
    files = write(tmp_path / "packed", model, pack(model, packing, rng), packing.settings)
    plain = write(tmp_path / "plain", model, model.state_dict(), None)
    prompt = torch.randint(97, (PROMPT,))
    with torch.no_grad():
        expected = model(prompt.unsqueeze(0)).logits[0]
    found = logits_of(load(files), prompt)
    off = (found - expected).abs().amax(-1) / expected.abs().amax(-1)
    assert off.max() < 1e-4
    # Every form of ours is made of the same numbers, whatever they were packed in.
    assert torch.equal(found, logits_of(load(plain), prompt))
    assert torch.equal(logits_of(load(files, "int8"), prompt), logits_of(load(plain, "int8"), prompt))


@pytest.mark.parametrize("packing", ["gptq-4bit-g16-sym"], indirect=True)
def test_a_bias_of_zeros_that_the_packer_added_is_left_alone_and_any_other_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator, packing: Any
) -> None:
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "cache"))
    model = tiny()
    tensors = pack(model, packing, rng)
    name = "model.layers.0.self_attn.q_proj.bias"
    load(write(tmp_path / "zeros", model, tensors | {name: torch.zeros(48)}, packing.settings))
    files = write(tmp_path / "others", model, tensors | {name: torch.ones(48)}, packing.settings)
    with pytest.raises(DataLoss, match=r"tensor model\.layers\.0\.self_attn\.q_proj\.bias is unused"):
        load(files)
