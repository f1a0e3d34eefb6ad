"""Experts in stacks of MXFP4, and in blocks of fp8 one by one, against transformers' own dequantisation."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from transformers.utils.quantization_config import Mxfp4Config

from triptych.kernels import AttentionBatch
from triptych.models.decoder import Decoder
from triptych.models.files import ModelFiles
from triptych.models.sources import SafetensorsSource
from triptych.models.spec import read_spec
from triptych.models.step import StepInput

SIZES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "max_position_embeddings": 256, "num_experts_per_tok": 2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "cache"))


def close_to(model: Any, folder: Path) -> None:
    """Logits of a prompt are transformers'."""
    files = ModelFiles("packed", folder, "safetensors")
    decoder = Decoder.load(files, read_spec(files), torch.float32)
    prompt, rows = torch.randint(97, (40,)), torch.arange(40)
    batch = AttentionBatch(
        query_start=torch.tensor([0, 40], dtype=torch.int32),
        kv_lengths=torch.tensor([40], dtype=torch.int32),
        block_tables=torch.arange(3, dtype=torch.int32).unsqueeze(0),
    )
    kv = torch.zeros(decoder.kv_shape(3, 16))
    found = decoder.forward(StepInput(prompt, rows, rows, batch, rows), kv)
    with torch.no_grad():
        expected = model.float()(prompt.unsqueeze(0)).logits[0]
    assert ((found - expected).abs().amax(-1) / expected.abs().amax(-1)).max() < 1e-4


def rewrite(folder: Path, edit: Any, settings: object) -> None:
    """Changes the tensors of a saved model, and says in its configuration how they are packed."""
    tensors: dict[str, Tensor] = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))


def test_gpt_oss_in_mxfp4(tmp_path: Path) -> None:
    config = GptOssConfig(**SIZES, intermediate_size=96, num_local_experts=3, sliding_window=21)
    GptOssForCausalLM(config).bfloat16().save_pretrained(tmp_path)

    def pack(tensors: dict[str, Tensor]) -> None:
        for layer in range(2):
            for name, rows, inputs in (("gate_up_proj", 192, 64), ("down_proj", 64, 96)):
                stem = f"model.layers.{layer}.mlp.experts.{name}"
                del tensors[stem]
                tensors[f"{stem}_blocks"] = torch.randint(256, (3, rows, inputs // 32, 16), dtype=torch.uint8)
                tensors[f"{stem}_scales"] = torch.randint(119, 123, (3, rows, inputs // 32), dtype=torch.uint8)

    rewrite(tmp_path, pack, {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head", "self_attn", "router"]})
    quantization = Mxfp4Config(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=quantization, dtype=torch.float32)
    close_to(model, tmp_path)


def test_an_expert_is_unpacked_once_for_all_that_is_made_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = GptOssConfig(**SIZES, intermediate_size=96, num_local_experts=3)
    GptOssForCausalLM(config).bfloat16().save_pretrained(tmp_path)
    files = ModelFiles("plain", tmp_path, "safetensors")
    reads: Counter[tuple[str, int]] = Counter()
    read = SafetensorsSource.read

    def counting(self: SafetensorsSource, name: str, start: int, stop: int) -> Any:
        reads[name, start] += 1
        return read(self, name, start, stop)

    monkeypatch.setattr(SafetensorsSource, "read", counting)
    Decoder.load(files, read_spec(files), torch.float32)
    stacks = {key: count for key, count in reads.items() if key[0].endswith(("gate_up_proj", "down_proj"))}
    assert len(stacks) == 2 * 2 * 3
    assert set(stacks.values()) == {1}


def test_experts_in_blocks_of_fp8(tmp_path: Path) -> None:
    config = Qwen3MoeConfig(**SIZES, moe_intermediate_size=48, num_experts=4, intermediate_size=48)
    model = Qwen3MoeForCausalLM(config)
    model.save_pretrained(tmp_path)
    plain = dict(load_file(tmp_path / "model.safetensors"))

    def pack(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.endswith("_proj.weight")]:
            rows, columns = tensors[name].shape
            blocks = torch.rand(-(-rows // 32), -(-columns // 24)) / 100
            grid = blocks.repeat_interleave(32, 0)[:rows].repeat_interleave(24, 1)[:, :columns]
            tensors[name] = (tensors[name] / grid).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = blocks
            plain[name] = tensors[name].float() * grid

    rewrite(tmp_path, pack, {"quant_method": "fp8", "weight_block_size": [32, 24]})
    folder = tmp_path / "plain"
    model.save_pretrained(folder)
    save_file(plain, folder / "model.safetensors", metadata={"format": "pt"})
    close_to(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), tmp_path)
