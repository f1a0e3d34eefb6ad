"""Every family, written from a tiny checkpoint and read back; transformers reads the same file where it can."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from transformers import AutoConfig, AutoModelForCausalLM, GgufConfig, PreTrainedModel

from triptych.models.convert import convert
from triptych.models.files import ModelFiles
from triptych.models.gguf_config import config_from_gguf
from triptych.models.gguf_families import FAMILIES
from triptych.models.gguf_header import read_header
from triptych.models.gguf_source import GgufSource
from triptych.models.sources import SafetensorsSource

Tiny = Callable[..., tuple[ModelFiles, PreTrainedModel]]
NAMES = [family.architecture for family in FAMILIES]
READ_BY_TRANSFORMERS = (
    "LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM",
    "Phi3ForCausalLM",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_values_and_config_are_those_of_the_checkpoint(name: str, tiny_family: Tiny, tmp_path: Path) -> None:
    files, model = tiny_family(name)
    path = tmp_path / "model.gguf"
    convert(files, path, "F32")
    expected, found = SafetensorsSource(files.path / "model.safetensors"), GgufSource(path)
    assert found.shapes == expected.shapes
    for tensor, (rows, *_) in expected.shapes.items():
        middle = rows // 2
        halves = (found.read(tensor, 0, middle), found.read(tensor, middle, rows))
        np.testing.assert_allclose(np.concatenate(halves), expected.read(tensor, 0, rows), rtol=0, atol=1e-6)
    read = config_from_gguf(read_header(path))
    config = AutoConfig.from_pretrained(files.path).to_dict()
    config["num_experts"] = config.get("num_experts", config.get("num_local_experts"))
    config["head_dim"] = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    assert read == {key: config[key] for key in read}
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


def test_a_phi_without_a_window_says_so_as_llama_cpp_does(tiny_family: Tiny, tmp_path: Path) -> None:
    files, _ = tiny_family("Phi3ForCausalLM", sliding_window=None)
    convert(files, tmp_path / "model.gguf", "F32")
    header = read_header(tmp_path / "model.gguf")
    assert header.metadata["phi3.attention.sliding_window"] == 0
    assert config_from_gguf(header)["sliding_window"] is None


@pytest.mark.parametrize("name", ["MixtralForCausalLM", "Qwen2MoeForCausalLM"])
def test_every_expert_has_blocks_of_its_own(name: str, tiny_family: Tiny, tmp_path: Path) -> None:
    files, _ = tiny_family(name)
    path = tmp_path / "model.gguf"
    convert(files, path, "Q8_0")
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
