"""Blocks of a GGUF file used where they lie: no copy, the rows in llama.cpp's order, everything else converted."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType

from triptych.core.errors import DataLoss, InvalidArgument
from triptych.kernels import DenseWeight, GgufWeight, dequantize
from triptych.models.checkpoint import open_checkpoint
from triptych.models.files import ModelFiles
from triptych.models.gguf_header import read_header
from triptych.models.quantization import choose_quantization
from triptych.models.weights import Weights, open_weights

Gguf = Callable[..., ModelFiles]
HEADS = {"q_proj": 4, "k_proj": 2}


def open_blocks(files: ModelFiles, dtype: torch.dtype = torch.float32) -> Weights:
    return open_weights(open_checkpoint(files, "llama_cpp"), dtype, quantization="gguf")


def in_hugging_face_order(name: str, rows: torch.Tensor) -> torch.Tensor:
    heads = next((heads for part, heads in HEADS.items() if part in name), 0)
    if not heads:
        return rows
    return rows.view(heads, -1, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def files_mapped_at(address: int) -> list[str]:
    """Path and kind (r--s: read-only, shared) of the mapping that holds an address of this process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, kind, *_, path = line.split(maxsplit=5)
        first, last = (int(part, 16) for part in span.split("-"))
        if first <= address < last:
            return [kind, path.strip()]
    raise AssertionError(f"{address:#x} is not mapped")


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0", "Q5_0", "Q5_1"])
def test_every_matrix_is_a_view_of_the_file(
    llama_gguf: Gguf, rng: np.random.Generator, cache: Path, kind: str
) -> None:
    files = llama_gguf(rng, GGMLQuantizationType[kind])
    plain, weights = open_weights(open_checkpoint(files), torch.float32), open_blocks(files)
    raw, stored = files.path.read_bytes(), read_header(files.path).tensors
    assert files.path in weights.files
    assert weights.interleaved
    assert weights.names == plain.names
    for name in (name for name in plain.names if len(plain.shape(name)) == 2):
        weight = weights.matrix(name)
        assert isinstance(weight, GgufWeight)
        assert weight.kind == kind
        assert weights.shape(name) == (weight.outputs, weight.inputs) == plain.shape(name)
        first, last = weight.blocks[0].data_ptr(), weight.blocks[-1].data_ptr()
        assert files_mapped_at(first) == files_mapped_at(last) == ["r--s", str(files.path)]
        assert torch.equal(in_hugging_face_order(name, dequantize(weight)), plain.tensor(name))
    embedding, place = weights.matrix("model.embed_tokens.weight"), stored["token_embd.weight"]
    assert isinstance(embedding, GgufWeight)
    assert embedding.blocks.numpy().tobytes() == raw[place.offset : place.offset + place.nbytes]


def test_vectors_are_converted_to_the_dtype_and_nothing_else_is(
    llama_gguf: Gguf, rng: np.random.Generator, cache: Path
) -> None:
    files = llama_gguf(rng, GGMLQuantizationType.Q4_1)
    weights = open_blocks(files, torch.bfloat16)
    (converted,) = cache.rglob("*.safetensors")
    assert weights.files == {files.path, converted}
    assert converted.stat().st_size < 2000
    assert weights.tensor("model.norm.weight").dtype is torch.bfloat16


def test_biases_of_q_and_k_keep_the_order_of_their_rows_and_a_file_of_their_own(
    llama_gguf: Gguf, rng: np.random.Generator, cache: Path
) -> None:
    bias, name = np.arange(64, dtype=np.float32), "model.layers.0.self_attn.q_proj.bias"
    files = llama_gguf(rng, GGMLQuantizationType.F16, tensors={"blk.0.attn_q.bias": bias})
    for _ in range(2):
        assert open_blocks(files, torch.bfloat16).tensor(name).tolist() == bias.tolist()
        plain = open_weights(open_checkpoint(files), torch.bfloat16).tensor(name)
        assert plain.tolist() == in_hugging_face_order("q_proj", torch.from_numpy(bias)).tolist()


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_other_kinds_become_plain_numbers_in_the_same_order(
    llama_gguf: Gguf, rng: np.random.Generator, cache: Path, kind: str
) -> None:
    files = llama_gguf(rng, GGMLQuantizationType[kind])
    plain, weights = open_weights(open_checkpoint(files), torch.float32), open_blocks(files)
    for name in (name for name in plain.names if len(plain.shape(name)) == 2):
        weight = weights.matrix(name)
        assert isinstance(weight, DenseWeight)
        assert torch.equal(in_hugging_face_order(name, weight.values), plain.tensor(name))


def test_kinds_may_differ_from_tensor_to_tensor(llama_gguf: Gguf, rng: np.random.Generator, cache: Path) -> None:
    path = llama_gguf(rng, GGMLQuantizationType.Q8_0).path
    weights = open_blocks(_with_repacked(path, "blk.0.attn_k.weight", GGMLQuantizationType.F16))
    q, k = (weights.matrix(f"model.layers.0.self_attn.{name}_proj.weight") for name in "qk")
    assert isinstance(q, GgufWeight)
    assert isinstance(k, DenseWeight)
    assert weights.interleaved


def test_smollm2_is_read_without_a_copy(smollm2: ModelFiles) -> None:
    weights = open_blocks(smollm2)
    assert weights.files == {smollm2.path}
    matrices = [weights.matrix(name) for name in weights.names if len(weights.shape(name)) == 2]
    assert {weight.kind for weight in matrices if isinstance(weight, GgufWeight)} == {"Q4_1", "Q8_0"}
    assert sum(weight.blocks.nbytes for weight in matrices if isinstance(weight, GgufWeight)) > 96_000_000


def test_a_file_that_was_cut_is_refused(llama_gguf: Gguf, rng: np.random.Generator, cache: Path) -> None:
    path = llama_gguf(rng, GGMLQuantizationType.Q4_0).path
    end = max(tensor.offset + tensor.nbytes for tensor in read_header(path).tensors.values())
    for length in (end - 1, end // 2, 100, 0):
        with path.open("r+b") as file:
            file.truncate(length)
        with pytest.raises(DataLoss, match=r"tiny\.gguf"):
            open_blocks(ModelFiles("tiny", path, "gguf"))


def test_only_gguf_files_have_blocks(tmp_path: Path) -> None:
    files = ModelFiles("org/model", tmp_path, "safetensors")
    with pytest.raises(
        InvalidArgument, match=r"quantization gguf needs a \.gguf file, org/model is stored as"
    ) as caught:
        choose_quantization("gguf", files)
    assert caught.value.field == "quantization"
    assert [choose_quantization(name, files) for name in ("none", "int8")] == ["none", "int8"]


@pytest.mark.parametrize("name", ["int4", "INT8", "", "auto"])
def test_a_form_that_is_not_known_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgument, match=f"quantization must be none, int8 or gguf, got '{name}'"):
        choose_quantization(name, ModelFiles("m", tmp_path / "m.gguf", "gguf"))


def _with_repacked(path: Path, name: str, kind: GGMLQuantizationType) -> ModelFiles:
    """The same model with one tensor packed another way."""
    reader, target = gguf.GGUFReader(path), path.with_name("mixed.gguf")
    writer = gguf.GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if field.name.startswith(("llama.", "tokenizer.")) and field.types:
            writer.add_key_value(field.name, field.contents(), field.types[0], *field.types[1:2])
    for tensor in reader.tensors:
        if tensor.name == name:
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return ModelFiles("mixed", target, "gguf")
