"""Folders that are refused: one line that names the file, what is wrong, and what was expected."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from triptych.core.errors import DataLoss, InvalidArgument, NotFound, TriptychError, Unimplemented
from triptych.models.adapters import Adapters, open_adapters
from triptych.models.files import ModelFiles
from triptych.models.progress import SILENT
from triptych.models.spec import ModelSpec, read_spec

QUERY = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )


@pytest.fixture(scope="module")
def spec(model: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return read_spec(ModelFiles("tiny", folder, "safetensors"))


@pytest.fixture
def folder(
    model: LlamaForCausalLM,
    tmp_path: Path,
    kinds: Mapping[str, Callable[[], Any]],
) -> Path:
    saved: Path = kinds["attention"]().draw(model).save(tmp_path / "adapter")
    return saved


def opened(folder: Path, spec: ModelSpec) -> Adapters:
    return open_adapters({"one": folder}, spec, torch.float32, torch.device("cpu"), SILENT, interleaved=False)


def refusal(kind: type[TriptychError], folder: Path, spec: ModelSpec) -> str:
    with pytest.raises(kind) as refused:
        opened(folder, spec)
    assert type(refused.value) is kind
    assert "\n" not in refused.value.message
    return refused.value.message


SETTINGS: dict[str, tuple[dict[str, Any], type[TriptychError], str]] = {
    "another kind": ({"peft_type": "IA3"}, Unimplemented, "peft_type 'IA3' is not supported; supported: LORA"),
    "no kind": ({"peft_type": None}, Unimplemented, "peft_type '' is not supported; supported: LORA"),
    "dora": ({"use_dora": True}, Unimplemented, "use_dora True is not supported; supported: none"),
    "modules": ({"modules_to_save": ["lm_head"]}, Unimplemented, "modules_to_save ['lm_head'] is not supported"),
    "tokens": ({"trainable_token_indices": [3]}, Unimplemented, "trainable_token_indices [3] is not supported"),
    "bias": ({"bias": "all"}, Unimplemented, "bias 'all' is not supported; supported: none"),
    "start": ({"init_lora_weights": "pissa"}, Unimplemented, "init_lora_weights 'pissa' is not supported"),
    "rank": ({"r": 0}, InvalidArgument, "r must be a positive integer, got 0"),
    "ranks": ({"rank_pattern": {"q_proj": "4"}}, InvalidArgument, "rank_pattern.q_proj must be a positive integer"),
    "alpha": ({"lora_alpha": "8"}, InvalidArgument, "lora_alpha must be a positive number, got '8'"),
    "targets": ({"target_modules": {"q_proj": 1}}, InvalidArgument, "target_modules must be a list of words"),
    "pattern": ({"target_modules": "*q"}, InvalidArgument, "target_modules '*q' is not a regular expression"),
    "layers": ({"layers_to_transform": "all"}, InvalidArgument, "layers_to_transform must be a list of integers"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_are_wrong_or_ask_for_more(case: str, folder: Path, spec: ModelSpec) -> None:
    changes, kind, expected = SETTINGS[case]
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert refusal(kind, folder, spec).startswith(f"{path}: {expected}")


def change(folder: Path, **changes: torch.Tensor | None) -> Path:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path) | changes
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)
    return path


def test_a_missing_tensor(folder: Path, spec: ModelSpec) -> None:
    path = change(folder, **{f"{QUERY}.lora_B.weight": None})
    assert refusal(DataLoss, folder, spec) == f"{path} has no tensor {QUERY}.lora_B.weight; expected shape [32, 4]"


def test_a_tensor_of_another_shape(folder: Path, spec: ModelSpec) -> None:
    path = change(folder, **{f"{QUERY}.lora_A.weight": torch.zeros(3, 32)})
    message = f"{path}: tensor {QUERY}.lora_A.weight must have shape [4, 32], found [3, 32]"
    assert refusal(DataLoss, folder, spec) == message


@pytest.mark.parametrize("ending", ["lora_A", "lora_B"])
def test_numbers_that_are_not_finite(ending: str, folder: Path, spec: ModelSpec) -> None:
    path = folder / "adapter_model.safetensors"
    broken = load_file(path)[f"{QUERY}.{ending}.weight"]
    broken[1, 2] = torch.nan
    change(folder, **{f"{QUERY}.{ending}.weight": broken})
    message = f"{path}: tensor {QUERY}.{ending}.weight holds NaN or infinity"
    assert refusal(DataLoss, folder, spec).startswith(message)


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.lm_head.lora_A.weight",
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight",
        f"{QUERY}.lora_magnitude_vector",
    ],
)
def test_a_tensor_that_nothing_uses(name: str, folder: Path, spec: ModelSpec) -> None:
    path = change(folder, **{name: torch.zeros(4, 32)})
    message = (
        f"{path}: tensor {name} is not used: adapters are served of the linears of grouped-query attention, "
        "feed-forward blocks and shared experts that target_modules names"
    )
    assert refusal(DataLoss, folder, spec) == message


def test_an_adapter_of_nothing(folder: Path, spec: ModelSpec) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "target_modules": ["c_attn"]}))
    save_file({}, folder / "adapter_model.safetensors")
    path = folder / "adapter_model.safetensors"
    assert refusal(DataLoss, folder, spec) == f"{path} adapts nothing of this model"


def test_files_that_are_missing_or_pickled(folder: Path, spec: ModelSpec) -> None:
    weights = folder / "adapter_model.safetensors"
    weights.rename(folder / "adapter_model.bin")
    assert "adapter_model.bin; only safetensors are read" in refusal(Unimplemented, folder, spec)
    (folder / "adapter_model.bin").unlink()
    assert refusal(NotFound, folder, spec) == f"{folder} has no adapter_model.safetensors"
    (folder / "adapter_config.json").unlink()
    assert refusal(NotFound, folder, spec) == f"{folder / 'adapter_config.json'} does not exist"


def test_projections_that_no_adapter_has_are_left_as_they_are(folder: Path, spec: ModelSpec) -> None:
    adapters = opened(folder, spec)
    assert adapters.names == ("one",)
    projections = ("query", "key", "value", "output")
    assert set(adapters.of_linear) == {f"layers.{layer}.attention.{name}" for layer in (0, 1) for name in projections}
    assert adapters.of_linear["layers.1.attention.key"].outputs == 16
