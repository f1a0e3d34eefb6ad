"""Tensors of GGUF files, by Hugging Face name, equal to what transformers reads from the same file."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from transformers import AutoModelForCausalLM, GgufConfig

from triptych.core.errors import Unimplemented
from triptych.models.checkpoint import open_checkpoint
from triptych.models.files import ModelFiles
from triptych.models.gguf_source import GgufSource
from triptych.models.mapping import map_file
from triptych.models.weights import open_weights

Gguf = Callable[..., ModelFiles]
TYPES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
PACKED = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ3_S")


def reference(files: ModelFiles) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(
        files.path.parent,
        gguf_file=files.path.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    state: dict[str, torch.Tensor] = model.state_dict()
    return state


def assert_equal_tensors(files: ModelFiles, expected: dict[str, torch.Tensor]) -> None:
    weights = open_weights(open_checkpoint(files), torch.float32)
    assert weights.names == expected.keys() - {"lm_head.weight"} | (weights.names & {"lm_head.weight"})
    different = [name for name in sorted(weights.names) if not torch.equal(weights.tensor(name), expected[name])]
    assert different == []


@pytest.mark.parametrize("kind", TYPES)
def test_tensors_equal_those_of_transformers(
    llama_gguf: Gguf, rng: np.random.Generator, cache: Path, kind: str
) -> None:
    files = llama_gguf(rng, GGMLQuantizationType[kind])
    assert_equal_tensors(files, reference(files))


def test_smollm2_equals_transformers_bit_by_bit(smollm2: ModelFiles) -> None:
    expected = reference(smollm2)
    assert_equal_tensors(smollm2, expected)
    halves = open_weights(open_checkpoint(smollm2), torch.bfloat16)
    assert all(torch.equal(halves.tensor(name), expected[name].bfloat16()) for name in halves.names)


def test_an_own_head_is_found(llama_gguf: Gguf, rng: np.random.Generator, cache: Path) -> None:
    head = rng.standard_normal((48, 64), dtype=np.float32)
    weights = open_weights(open_checkpoint(llama_gguf(rng, tensors={"output.weight": head})), torch.float32)
    assert np.array_equal(weights.tensor("lm_head.weight").numpy(), head)


def test_biases_of_q_and_k_are_put_back_in_order_like_their_rows(
    llama_gguf: Gguf, rng: np.random.Generator, cache: Path
) -> None:
    bias = np.arange(64, dtype=np.float32)
    weights = open_weights(open_checkpoint(llama_gguf(rng, tensors={"blk.0.attn_q.bias": bias})), torch.float32)
    order = bias.reshape(4, 8, 2).swapaxes(1, 2).reshape(-1)
    assert weights.tensor("model.layers.0.self_attn.q_proj.bias").tolist() == order.tolist()


@pytest.mark.parametrize("kind", PACKED)
def test_other_packings_are_left_to_the_gguf_package(
    llama_gguf: Gguf, rng: np.random.Generator, cache: Path, kind: str
) -> None:
    packing = GGMLQuantizationType[kind]
    _, size = gguf.GGML_QUANT_SIZES[packing]
    packed = rng.integers(0, 60, (48, size), dtype=np.uint8)
    files = _with_packed_embedding(llama_gguf(rng).path, packed, packing)
    weights = open_weights(open_checkpoint(files), torch.float32)
    expected = gguf.quants.dequantize(packed, packing)
    assert np.array_equal(weights.tensor("model.embed_tokens.weight").numpy(), expected, equal_nan=True)


def test_a_packing_that_nobody_undoes_is_named(llama_gguf: Gguf, rng: np.random.Generator, cache: Path) -> None:
    packing = GGMLQuantizationType.Q8_K
    packed = np.zeros((48, gguf.GGML_QUANT_SIZES[packing][1]), dtype=np.uint8)
    files = _with_packed_embedding(llama_gguf(rng).path, packed, packing)
    with pytest.raises(Unimplemented, match=r"tensor token_embd\.weight is packed as Q8_K, which is not read"):
        open_weights(open_checkpoint(files), torch.float32)


def test_plain_tensors_of_a_gguf_are_used_where_they_lie(
    llama_gguf: Gguf, rng: np.random.Generator, cache: Path
) -> None:
    files = llama_gguf(rng, GGMLQuantizationType.BF16)
    source = open_checkpoint(files)
    for name, kind in (("embed_tokens", "BF16"), ("layers.0.mlp.up_proj", "BF16"), ("norm", "F32")):
        extent = source.extent(f"model.{name}.weight", kind)
        assert extent is not None
        assert extent.path == files.path
    assert map_file(files.path).content.numel() == files.path.stat().st_size


def test_rows_are_the_same_read_one_by_one(llama_gguf: Gguf, rng: np.random.Generator) -> None:
    source = GgufSource(llama_gguf(rng, GGMLQuantizationType.Q8_0).path)
    for name, (count, *_) in source.shapes.items():
        pieces = [source.read(name, row, row + 1) for row in range(count)]
        assert np.array_equal(np.concatenate(pieces), source.read(name, 0, count))


def _with_packed_embedding(path: Path, packed: np.ndarray, packing: GGMLQuantizationType) -> ModelFiles:
    """Rewrites the file with token_embd packed so; its rows have 256 elements then."""
    target = path.with_name("packed.gguf")
    writer = gguf.GGUFWriter(target, "llama")
    for field in gguf.GGUFReader(path).fields.values():
        if field.name.startswith("llama.") and field.types:
            writer.add_key_value(field.name, field.contents(), field.types[0])
    writer.add_tensor("token_embd.weight", packed, raw_dtype=packing)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return ModelFiles("packed", target, "gguf")
