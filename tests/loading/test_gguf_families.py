"""Every family, written from a tiny checkpoint and read back; transformers reads the same file where it can."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from gguf import GGMLQuantizationType
from transformers import AutoConfig, AutoModelForCausalLM, GgufConfig, PreTrainedModel

from triptych.models.convert.gguf_file import add_entries, write_gguf
from triptych.models.convert.metadata import family_for, metadata_of, rope_tensors
from triptych.models.convert.tensors import targets_of
from triptych.models.gguf_config import config_from_gguf
from triptych.models.gguf_header import read_header
from triptych.models.gguf_source import GgufSource
from triptych.models.sources import SafetensorsSource

SIZES = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
EXPERTS = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
WINDOW = {"sliding_window": 16, "layer_types": ["full_attention", "sliding_attention"]}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 128}
LONG = {
    "rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.5,
    "long_factor": [1.5, 2.5, 3.5, 4.5], "short_factor": [1.0, 1.25, 1.5, 1.75],
    "original_max_position_embeddings": 128,
}  # fmt: skip
SCALES = {
    "embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.1,
}  # fmt: skip
FAMILIES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "LlamaForCausalLM": ("LlamaConfig", {"rope_parameters": LLAMA3}),
    "MixtralForCausalLM": ("MixtralConfig", {"num_local_experts": 3, "num_experts_per_tok": 2}),
    "Qwen2ForCausalLM": ("Qwen2Config", {"rope_parameters": YARN}),
    "Qwen3ForCausalLM": ("Qwen3Config", {"head_dim": 128, "tie_word_embeddings": True}),
    "Qwen2MoeForCausalLM": ("Qwen2MoeConfig", {**EXPERTS, "shared_expert_intermediate_size": 48}),
    "Qwen3MoeForCausalLM": ("Qwen3MoeConfig", {**EXPERTS, "head_dim": 32, "norm_topk_prob": True}),
    "Gemma2ForCausalLM": ("Gemma2Config", {**WINDOW, "head_dim": 32, "query_pre_attn_scalar": 32}),
    "Gemma3ForCausalLM": ("Gemma3TextConfig", {**WINDOW, "head_dim": 32, "query_pre_attn_scalar": 32}),
    "Phi3ForCausalLM": ("Phi3Config", {"rope_parameters": LONG, "original_max_position_embeddings": 128}),
    "GraniteForCausalLM": ("GraniteConfig", SCALES),
    "Olmo2ForCausalLM": ("Olmo2Config", {}),
    "Olmo3ForCausalLM": ("Olmo3Config", WINDOW),
    "SmolLM3ForCausalLM": ("SmolLM3Config", {}),
}
READ_BY_TRANSFORMERS = (
    "LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM",
    "Phi3ForCausalLM",
)  # fmt: skip


def build(name: str, folder: Path) -> PreTrainedModel:
    """A model with random weights, norms included, saved."""
    config_class, settings = FAMILIES[name]
    config = getattr(transformers, config_class)(**(SIZES | settings))
    model: PreTrainedModel = getattr(transformers, name)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    return model


def write(name: str, folder: Path, kind: GGMLQuantizationType) -> tuple[Path, dict[str, Any]]:
    config = AutoConfig.from_pretrained(folder).to_dict() | {"architectures": [name]}
    family, source = family_for(config), SafetensorsSource(folder / "model.safetensors")
    path, writer = folder / "model.gguf", gguf.GGUFWriter(None, family.name)
    add_entries(writer, {f"{family.name}.{key}": value for key, value in metadata_of(config, family).items()})
    add_entries(writer, {f"tokenizer.ggml.{name}_token_id": i for i, name in enumerate(("padding", "bos", "eos"))})
    writer.add_string("general.name", "tiny")
    writer.add_token_list([f"t{n}" for n in range(64)])
    targets = targets_of(source.shapes, family, config, kind)
    written: list[int] = []
    write_gguf(path, writer, targets, rope_tensors(config), source, written.append)
    assert sum(written) == sum(target.nbytes for target in targets)
    return path, config


@pytest.mark.parametrize("name", FAMILIES)
def test_names_values_and_config_are_those_of_the_checkpoint(name: str, tmp_path: Path, cache: Path) -> None:
    model = build(name, tmp_path)
    path, config = write(name, tmp_path, GGMLQuantizationType.F32)
    expected, found = SafetensorsSource(tmp_path / "model.safetensors"), GgufSource(path)
    assert found.shapes == expected.shapes
    for tensor, (rows, *_) in expected.shapes.items():
        middle = rows // 2
        halves = (found.read(tensor, 0, middle), found.read(tensor, middle, rows))
        np.testing.assert_allclose(np.concatenate(halves), expected.read(tensor, 0, rows), rtol=0, atol=1e-6)
    read = config_from_gguf(read_header(path))
    renamed = {"num_experts": "num_local_experts"} if name == "Qwen3MoeForCausalLM" else {}
    config["head_dim"] = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    assert read == {key: config[renamed.get(key, key)] for key in read}
    if name in READ_BY_TRANSFORMERS:
        again = AutoModelForCausalLM.from_pretrained(
            tmp_path,
            gguf_file=path.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
        theirs, ours = again.state_dict(), model.state_dict()
        assert theirs.keys() == ours.keys()
        assert [key for key in ours if not torch.allclose(ours[key], theirs[key], rtol=0, atol=1e-6)] == []
    named = {tensor.name for tensor in gguf.GGUFReader(path).tensors}
    assert named == set(read_header(path).tensors)


@pytest.mark.parametrize("name", ["MixtralForCausalLM", "Qwen2MoeForCausalLM"])
def test_every_expert_has_blocks_of_its_own(name: str, tmp_path: Path) -> None:
    build(name, tmp_path)
    path, _ = write(name, tmp_path, GGMLQuantizationType.Q8_0)
    source, data = GgufSource(path), np.memmap(path, mode="r")
    experts = [tensor for tensor in source.shapes if ".experts." in tensor]
    assert len(experts) == 2 * 3 * 3
    for tensor in experts:
        stored = source.blocks(tensor)
        assert stored is not None
        assert stored.shape == source.shapes[tensor]
        extent = stored.blocks
        packed = data[extent.offset : extent.offset + extent.nbytes].reshape(extent.shape)
        values = gguf.quants.dequantize(packed, GGMLQuantizationType.Q8_0)
        assert np.array_equal(values, source.read(tensor, 0, stored.shape[0]))
