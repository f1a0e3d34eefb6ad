"""Ranks with quantised weights and adapters answer as one rank does."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig, PretrainedConfig

from triptych.kernels import dequantize, gated_linear, linear, linear_argmax, linears, moe
from triptych.kernels.gguf_blocks import GgufKind
from triptych.kernels.testing import random_blocks
from triptych.models.decoder import Decoder
from triptych.models.files import ModelFiles
from triptych.models.quantization import Quantization
from triptych.models.spec import read_spec
from triptych.models.testing import save_adapter

SIZES: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.1,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@pytest.fixture
def exact_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in torch, which leaves activations as they are: in eight bits 1e-7 more may be a level more."""
    for op in (linear, linears, gated_linear, linear_argmax, moe):
        monkeypatch.delitem(op._chosen, "cpu", raising=False)


def saved(folder: Path, config: PretrainedConfig) -> ModelFiles:
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    return ModelFiles("tiny", folder, "safetensors")


def gguf_llama(path: Path, kind: GgufKind) -> ModelFiles:
    """A model of random blocks: four heads of 64, so that two of them are half a block of 256."""
    writer = gguf.GGUFWriter(path, "llama")
    numbers = {
        "block_count": 2, "context_length": 128, "embedding_length": 256, "feed_forward_length": 1024,
        "attention.head_count": 4, "attention.head_count_kv": 2,
    }  # fmt: skip
    for key, value in numbers.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_float32("llama.rope.freq_base", 1e4)
    writer.add_string("tokenizer.ggml.model", "gpt2")
    for place, name in enumerate(("padding", "bos", "eos")):
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", place)
    writer.add_token_list([f"t{n}" for n in range(96)])
    shapes = {"token_embd": (96, 256), "output": (96, 256)}
    for layer in range(2):
        shapes |= {f"blk.{layer}.attn_{name}": (256, 256) for name in ("q", "output")}
        shapes |= {f"blk.{layer}.attn_{name}": (128, 256) for name in "kv"}
        shapes |= {f"blk.{layer}.ffn_{name}": (1024, 256) for name in ("gate", "up")}
        shapes[f"blk.{layer}.ffn_down"] = (256, 1024)
    spread = dequantize(random_blocks(kind, 64, 256, 1.0)).std().item()
    for name, shape in shapes.items():
        blocks = random_blocks(kind, *shape, scale=0.1 / spread).blocks.numpy()
        writer.add_tensor(f"{name}.weight", blocks, raw_dtype=GGMLQuantizationType[kind])
    for name in ("output_norm", *(f"blk.{n}.{part}_norm" for n in range(2) for part in ("attn", "ffn"))):
        writer.add_tensor(f"{name}.weight", np.ones(256, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return ModelFiles("tiny", path, "gguf")


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0", "Q4_K"])
def test_gguf_blocks(kind: GgufKind, tmp_path: Path, same: Callable[..., None]) -> None:
    files = gguf_llama(tmp_path / "tiny.gguf", kind)
    same(partial(Decoder.load, files, read_spec(files), torch.float32, quantization="gguf"), (2, 4))


@pytest.mark.parametrize(
    "config", [LlamaConfig(**SIZES), MixtralConfig(**SIZES, num_local_experts=4)], ids=["dense", "experts"]
)
@pytest.mark.usefixtures("exact_activations")
def test_int8(config: PretrainedConfig, tmp_path: Path, same: Callable[..., None]) -> None:
    files = saved(tmp_path, config)
    same(partial(Decoder.load, files, read_spec(files), torch.float32, quantization="int8"), (2, 4))


@pytest.mark.parametrize("form", ["none", "int8"])
@pytest.mark.usefixtures("exact_activations")
def test_adapters(form: Quantization, tmp_path: Path, same: Callable[..., None]) -> None:
    files = saved(tmp_path / "model", LlamaConfig(**SIZES))
    widths = {
        "q": (256, 256),
        "k": (256, 128),
        "v": (256, 128),
        "o": (256, 256),
        "gate": (256, 512),
        "up": (256, 512),
    }
    factors = {
        f"model.layers.{layer}.{'self_attn' if len(name) == 1 else 'mlp'}.{name}_proj": (
            0.1 * torch.randn(4, inputs),
            0.1 * torch.randn(outputs, 4),
        )
        for layer in range(2)
        for name, (inputs, outputs) in {**widths, "down": (512, 256)}.items()
    }
    folder = save_adapter(tmp_path / "adapter", factors, r=4, lora_alpha=8, target_modules="all-linear")
    load = partial(
        Decoder.load, files, read_spec(files), torch.float32, quantization=form, adapters={"tuned": folder}
    )
    same(load, (2, 4))
