"""Packed weights, unpacked: equal to their definitions, and to transformers where its code needs no other package."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from triptych.core.errors import DataLoss, InvalidArgument, Unimplemented
from triptych.models.checkpoint import open_safetensors
from triptych.models.packed import unpacked
from triptych.models.sources import Plain

Tensors = Mapping[str, torch.Tensor]


def opened(folder: Path, tensors: Tensors, settings: Mapping[str, Any]) -> Plain:
    save_file(dict(tensors), folder / "model.safetensors")
    return unpacked(open_safetensors(folder), {"quantization_config": settings})


def named(arrays: Tensors, stem: str = "m") -> dict[str, torch.Tensor]:
    return {stem + ending: array for ending, array in arrays.items()}


def test_every_format_unpacks_to_its_definition(tmp_path: Path, rng: np.random.Generator, packing: Any) -> None:
    arrays, dense = packing.pack(rng, 40, 48)
    plain = {"m.bias": torch.ones(40), "norm.weight": torch.ones(3)}
    source = opened(tmp_path, named(arrays) | plain, packing.settings)
    assert set(source.shapes) == {"m.weight", "m.bias", "norm.weight"}
    assert source.shapes["m.weight"] == (40, 48)
    assert source.extent("m.weight", "F32") is None
    assert source.extent("norm.weight", "F32") is not None
    found = source.read("m.weight", 0, 40)
    assert found.dtype == np.float32
    assert np.array_equal(found, dense)


def test_rows_are_the_same_in_any_pieces(tmp_path: Path, rng: np.random.Generator, packing: Any) -> None:
    arrays, dense = packing.pack(rng, 40, 48)
    source = opened(tmp_path, named(arrays), packing.settings)
    for start, stop in ((0, 1), (3, 4), (5, 21), (7, 40), (39, 40)):
        assert np.array_equal(source.read("m.weight", start, stop), dense[start:stop])


def test_arrays_of_a_tensor_may_lie_in_different_shards(
    tmp_path: Path, rng: np.random.Generator, packing: Any
) -> None:
    arrays, dense = packing.pack(rng, 40, 48)
    places = {}
    for number, (name, array) in enumerate(named(arrays).items()):
        save_file({name: array}, tmp_path / f"{number}.safetensors")
        places[name] = f"{number}.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    source = unpacked(open_safetensors(tmp_path), {"quantization_config": packing.settings})
    assert np.array_equal(source.read("m.weight", 0, 40), dense)


def test_every_byte_of_e4m3_is_what_torch_has(tmp_path: Path) -> None:
    numbers = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).view(1, 256)
    tensors = {"m.weight": numbers, "m.weight_scale": torch.ones(1)}
    source = opened(tmp_path, tensors, {"quant_method": "fp8"})
    assert np.array_equal(source.read("m.weight", 0, 1), numbers.float().numpy(), equal_nan=True)


def test_blocks_of_fp8_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    numbers = torch.randn(256, 384).mul(30).to(torch.float8_e4m3fn)
    scales = torch.rand(2, 3)
    expected = Fp8Dequantize(None)._dequantize_one(numbers, scales)  # type: ignore[no-untyped-call]
    tensors = {"m.weight": numbers, "m.weight_scale_inv": scales}
    source = opened(tmp_path, tensors, {"quant_method": "fp8", "weight_block_size": [128, 128]})
    assert np.array_equal(source.read("m.weight", 0, 256), expected.numpy())


def test_mxfp4_is_that_of_transformers(tmp_path: Path) -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    blocks = torch.randint(256, (3, 6, 2, 16), dtype=torch.uint8)
    scales = torch.randint(110, 140, (3, 6, 2), dtype=torch.uint8)
    expected = convert_moe_packed_tensors(blocks.clone(), scales.clone(), dtype=torch.float32)
    source = opened(
        tmp_path,
        {"x.gate_up_proj_blocks": blocks, "x.gate_up_proj_scales": scales, "x.gate_up_proj_bias": torch.ones(3, 6)},
        {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
    )
    assert dict(source.shapes) == {"x.gate_up_proj": (3, 64, 6), "x.gate_up_proj_bias": (3, 6)}
    for expert in range(3):
        assert np.array_equal(source.read("x.gate_up_proj", expert, expert + 1)[0], expected[expert].numpy())


def test_a_checkpoint_of_no_packing_is_left_alone(tmp_path: Path) -> None:
    save_file({"m.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    plain = open_safetensors(tmp_path)
    assert unpacked(plain, {"quantization_config": None}) is plain
    dense = {"quant_method": "compressed-tensors", "format": "dense"}
    assert unpacked(plain, {"text_config": {"quantization_config": dense}}) is plain


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quant_method": "bitsandbytes"}, r"quantization_config\.quant_method 'bitsandbytes' is not supported"),
        ({"bits": 4}, r"quantization_config\.quant_method '' is not supported; supported: awq or compressed-tensors"),
        (
            {"quant_method": "gptq", "bits": 3},
            r"quantization_config\.bits 3 is not supported; supported: 4 or 8 or",
        ),
        ({"quant_method": "gptq", "checkpoint_format": "marlin"}, r"checkpoint_format 'marlin' is not supported"),
        ({"quant_method": "gptq", "dynamic": {"-:x": {}}}, r"dynamic .* is not supported; supported: {}"),
        ({"quant_method": "awq", "version": "gemv"}, r"quantization_config\.version 'gemv' is not supported"),
        ({"quant_method": "awq", "zero_point": False}, r"zero_point False is not supported; supported: True"),
        ({"quant_method": "fp8", "fmt": "e5m2"}, r"quantization_config\.fmt 'e5m2' is not supported"),
        (
            {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"},
            r"quantization_config\.format 'nvfp4-pack-quantized' is not supported; supported: dense or int-quantized",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "int-quantized",
                "config_groups": {"a": {"weights": {"num_bits": 3}}},
            },
            r"quantization_config\.config_groups\.a\.weights\.num_bits 3 is not supported; supported: 8 or 4",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "sparsity_config": {"format": "sparse-24-bitmask"},
            },
            r"quantization_config\.sparsity_config\.format 'sparse-24-bitmask' is not supported",
        ),
    ],
)
def test_settings_that_are_not_read_are_refused_by_name(
    tmp_path: Path, settings: Mapping[str, Any], said: str
) -> None:
    with pytest.raises(Unimplemented, match=said):
        opened(tmp_path, {"m.weight": torch.ones(2)}, settings)


def test_impossible_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"weight_block_size must be a list of 2 positive numbers"):
        opened(tmp_path, {"m.weight": torch.ones(2)}, {"quant_method": "fp8", "weight_block_size": 128})


@pytest.mark.parametrize(
    ("ending", "change", "said"),
    [
        (".qzeros", lambda a: a[:, :-1], r"tensor m\.qweight: its \.qzeros must have shape \[3, 5\], found \[3, 4\]"),
        (".qzeros", None, r"tensor m\.qweight has no \.qzeros beside it"),
        (".scales", lambda a: a[:, 1:], r"its \.scales must have shape \[any, 40\], found \[3, 39\]"),
        (".g_idx", lambda a: a[1:], r"its \.g_idx must have shape \[48\], found \[47\]"),
        (".g_idx", lambda a: a + 1, r"its \.g_idx must hold groups from 0 to 2, found 1 to 3"),
        (".qweight", lambda a: a.long(), r"its \.qweight must be I32, found I64"),
    ],
)
def test_arrays_that_contradict_each_other_are_named(
    tmp_path: Path, rng: np.random.Generator, ending: str, change: Any, said: str
) -> None:
    arrays = {
        ".qweight": torch.zeros(6, 40, dtype=torch.int32),
        ".qzeros": torch.zeros(3, 5, dtype=torch.int32),
        ".scales": torch.ones(3, 40).half(),
        ".g_idx": torch.arange(48, dtype=torch.int32) // 16,
    }
    whole = arrays.pop(ending)
    if change is not None:
        arrays[ending] = change(whole).contiguous()
    source = opened(tmp_path, named(arrays), {"quant_method": "gptq"})
    if said.startswith(r"its \.g_idx must hold"):  # a matter of values, seen when they are read
        with pytest.raises(DataLoss, match=said):
            source.read("m.weight", 0, 40)
    else:
        with pytest.raises(DataLoss, match=said):
            source.shapes["m.weight"]
