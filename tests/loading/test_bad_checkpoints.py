"""Bad checkpoints of a whole model: one line of file, tensor and expectation, before anything is converted."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from triptych.core.errors import TriptychError
from triptych.models.decoder import Decoder
from triptych.models.files import ModelFiles
from triptych.models.quantization import Quantization
from triptych.models.spec import read_spec

Q = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def model(tmp_path: Path, cache: Path) -> Path:
    """A tiny Llama of two shards, its weights in float32."""
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    folder = tmp_path / "tiny"
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="10KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


def load(folder: Path, dtype: torch.dtype = torch.float32, quantization: Quantization = "none") -> Decoder:
    files = ModelFiles("tiny", folder, "safetensors")
    return Decoder.load(files, read_spec(files), dtype, quantization=quantization)


def shard_of(folder: Path, name: str) -> Path:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    return folder / str(index["weight_map"][name])


def change(folder: Path, name: str, edit: Callable[[dict[str, Tensor]], Any]) -> Path:
    """Rewrites the shard that holds a tensor, and the index for it."""
    shard = shard_of(folder, name)
    tensors = load_file(shard)
    edit(tensors)
    save_file(tensors, shard)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    places: Mapping[str, str] = {n: place for n, place in index["weight_map"].items() if place != shard.name}
    path.write_text(json.dumps({"weight_map": {**places, **dict.fromkeys(tensors, shard.name)}}))
    return shard


def configure(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def said(folder: Path, **options: Any) -> str:
    with pytest.raises(TriptychError) as caught:
        load(folder, **options)
    assert "\n" not in caught.value.message
    return caught.value.message


def test_a_missing_tensor(model: Path, cache: Path) -> None:
    change(model, Q, lambda tensors: tensors.pop(Q))
    assert said(model, dtype=torch.bfloat16) == f"{model} has no tensor {Q}; expected shape [16, 16]"
    assert not cache.exists()


def test_a_wrong_shape(model: Path, cache: Path) -> None:
    shard = change(model, Q, lambda tensors: tensors.update({Q: torch.zeros(16, 15)}))
    expected = f"{shard}: tensor {Q} must have shape [16, 16], found [16, 15]"
    assert said(model, dtype=torch.bfloat16) == expected
    assert not cache.exists()


def test_an_unknown_kind_of_rope(model: Path) -> None:
    configure(model, rope_parameters={"rope_type": "spiral", "rope_theta": 10000.0})
    told = said(model)
    assert told.startswith(f"{model}/config.json: rope_parameters.rope_type 'spiral' is not supported; supported: ")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_hidden_layers": 3}, r".*/tiny has no tensor model\.layers\.2\.\S+; expected shape \[.*\]"),
        (
            {"num_hidden_layers": 1},
            r".*: tensor model\.layers\.1\.\S+ is unused: .* no such tensor \(nor for 8 others\)",
        ),
        ({"vocab_size": 33}, r".*: tensor model\.embed_tokens\.weight must have shape \[33, 16\], found \[32, 16\]"),
        ({"num_key_value_heads": 4}, r".*k_proj\.weight must have shape \[16, 16\], found \[8, 16\]"),
        ({"attention_bias": True}, r".*/tiny has no tensor model\.layers\.0\.\S+\.bias; expected shape \[16\]"),
        ({"tie_word_embeddings": True}, r".*: tensor lm_head\.weight differs from .*embed_tokens\.weight, .*"),
    ],
)
def test_a_config_that_disagrees_with_the_weights(model: Path, changes: dict[str, object], expected: str) -> None:
    configure(model, **changes)
    assert re.fullmatch(expected, said(model))


def test_a_head_that_is_stored_though_it_is_tied(model: Path) -> None:
    configure(model, tie_word_embeddings=True)
    embedding = load_file(shard_of(model, "model.embed_tokens.weight"))["model.embed_tokens.weight"]
    change(model, "lm_head.weight", lambda tensors: tensors.update({"lm_head.weight": embedding.clone()}))
    load(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("quantization", ["none", "int8"])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", [Q, "model.norm.weight"])
def test_a_weight_that_is_no_number(
    model: Path, cache: Path, value: float, quantization: Quantization, stored: torch.dtype, name: str
) -> None:
    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors[name].view(-1)[5] = value
        tensors.update({name: tensor.to(stored) for name, tensor in tensors.items()})

    shard = change(model, name, spoil)
    expected = f"{shard}: tensor {name} holds NaN or infinity; every weight must be a finite number"
    for dtype in (torch.float32, torch.bfloat16):
        for _ in range(2):  # a refusal is not remembered as anything else
            assert said(model, dtype=dtype, quantization=quantization) == expected
    assert not list(cache.rglob("*.partial"))
