"""Packs weights as each format defines it, number by number: what the readers are held against."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

Array = npt.NDArray[Any]
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Packing:
    """One format in one of its variants.

    Attributes:
        name: For the test's id.
        settings: quantization_config.
        pack: From a shape [O, I] to the arrays by the ends of their names, and the weights that they stand for.
    """

    name: str
    settings: Mapping[str, Any]
    pack: Callable[[np.random.Generator, int, int], tuple[dict[str, torch.Tensor], Array]] = field(repr=False)


def words(numbers: Array, bits: int, order: tuple[int, ...] | None = None) -> torch.Tensor:
    """int32 words of the numbers of a row, the first in the lowest bits, or in `order`."""
    per_word = 32 // bits
    padded = np.zeros((numbers.shape[0], -(-numbers.shape[1] // per_word) * per_word), np.int64)
    padded[:, : numbers.shape[1]] = numbers
    packed = np.zeros((padded.shape[0], padded.shape[1] // per_word), np.int64)
    for place, number in enumerate(order or range(per_word)):
        packed |= padded[:, number::per_word] << (bits * place)
    return torch.from_numpy(packed.astype(np.uint32).view(np.int32).copy())


def scales_of(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.uniform(0.005, 0.02, shape).astype(np.float32))


def kind(*parts: str, **flags: bool) -> str:
    return "-".join((*parts, *(name for name, value in flags.items() if value)))


def gptq(bits: int, group: int, *, symmetric: bool, ordered: bool, version: str) -> Packing:
    def pack(rng: np.random.Generator, outputs: int, inputs: int) -> tuple[dict[str, torch.Tensor], Array]:
        size = inputs if group < 0 else group
        largest = 2**bits
        numbers = rng.integers(0, largest, (outputs, inputs))
        zeros = np.full((inputs // size, outputs), largest // 2)
        if not symmetric:
            zeros = rng.integers(1, largest, zeros.shape)
        scales = scales_of(rng, inputs // size, outputs).half()
        groups = np.arange(inputs) // size
        if ordered:
            groups = rng.permutation(groups)
        dense = (numbers - zeros.T[:, groups]).astype(np.float32) * scales.float().numpy().T[:, groups]
        arrays = {
            ".qweight": words(numbers, bits).T.contiguous(),
            ".qzeros": words(zeros - (version == "gptq"), bits),
            ".scales": scales,
            ".g_idx": torch.from_numpy(groups.astype(np.int32)),
        }
        return arrays, dense

    settings = {
        "quant_method": "gptq", "bits": bits, "group_size": group, "sym": symmetric, "desc_act": ordered,
        "checkpoint_format": version, "true_sequential": True, "damp_percent": 0.1,
    }  # fmt: skip
    return Packing(kind(version, f"{bits}bit", f"g{group}", sym=symmetric, ordered=ordered), settings, pack)


def awq(group: int) -> Packing:
    def pack(rng: np.random.Generator, outputs: int, inputs: int) -> tuple[dict[str, torch.Tensor], Array]:
        numbers = rng.integers(0, 16, (inputs, outputs))
        zeros = rng.integers(0, 16, (inputs // group, outputs))
        scales = scales_of(rng, inputs // group, outputs).half()
        rows = np.arange(inputs) // group
        dense = (numbers - zeros[rows]).astype(np.float32) * scales.float().numpy()[rows]
        arrays = {
            ".qweight": words(numbers, 4, AWQ_ORDER), ".qzeros": words(zeros, 4, AWQ_ORDER), ".scales": scales
        }  # fmt: skip
        return arrays, dense.T

    settings = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"}
    return Packing(f"awq-g{group}", settings, pack)


def compressed(name: str, weights: Mapping[str, Any], pack: Any) -> Packing:
    """A compressed-tensors checkpoint whose linears are all packed alike."""
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "format": name}
    settings = {
        "quant_method": "compressed-tensors", "format": name, "quantization_status": "compressed",
        "config_groups": {"group_0": group}, "ignore": ["lm_head"], "kv_cache_scheme": None,
    }  # fmt: skip
    ordered, symmetric = bool(weights.get("actorder")), bool(weights.get("symmetric"))
    form = kind(name, weights["strategy"], f"{weights['num_bits']}bit", sym=symmetric, ordered=ordered)
    return Packing(form, settings, pack)


def pack_quantized(bits: int, group: int, *, symmetric: bool, ordered: bool = False) -> Packing:
    def pack(rng: np.random.Generator, outputs: int, inputs: int) -> tuple[dict[str, torch.Tensor], Array]:
        size, middle = inputs if group < 0 else group, 2 ** (bits - 1)
        numbers = rng.integers(-middle, middle, (outputs, inputs))
        scales = scales_of(rng, outputs, inputs // size).bfloat16()
        zeros = rng.integers(-middle, middle, scales.shape) * (not symmetric)
        groups = np.arange(inputs) // size
        if ordered:
            groups = rng.permutation(groups)
        dense = (numbers - zeros[:, groups]).astype(np.float32) * scales.float().numpy()[:, groups]
        arrays = {
            ".weight_packed": words(numbers + middle, bits),
            ".weight_scale": scales,
            ".weight_shape": torch.tensor([outputs, inputs]),
        }
        if not symmetric:
            arrays[".weight_zero_point"] = words((zeros + middle).T, bits).T.contiguous()
        if ordered:
            arrays[".weight_g_idx"] = torch.from_numpy(groups.astype(np.int32))
        return arrays, dense

    weights = {
        "num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "channel" if group < 0 else "group",
        "group_size": None if group < 0 else group, "actorder": "group" if ordered else None,
    }  # fmt: skip
    return compressed("pack-quantized", weights, pack)


def int8(strategy: str) -> Packing:
    def pack(rng: np.random.Generator, outputs: int, inputs: int) -> tuple[dict[str, torch.Tensor], Array]:
        numbers = rng.integers(-128, 128, (outputs, inputs)).astype(np.int8)
        scales = scales_of(rng, outputs, 1) / 10 if strategy == "channel" else scales_of(rng, 1) / 10
        dense = numbers.astype(np.float32) * scales.numpy().reshape(-1, 1)
        return {".weight": torch.from_numpy(numbers), ".weight_scale": scales}, dense

    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": strategy}
    return compressed("int-quantized", weights, pack)


def float8(strategy: str) -> Packing:
    def pack(rng: np.random.Generator, outputs: int, inputs: int) -> tuple[dict[str, torch.Tensor], Array]:
        numbers = torch.from_numpy(rng.standard_normal((outputs, inputs), np.float32) * 40).to(torch.float8_e4m3fn)
        scales = (scales_of(rng, outputs, 1) if strategy == "channel" else scales_of(rng, 1)).bfloat16() / 8
        arrays = {".weight": numbers, ".weight_scale": scales, ".input_scale": torch.ones(1)}
        return arrays, numbers.float().numpy() * scales.float().numpy().reshape(-1, 1)

    weights = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": strategy}
    return compressed("float-quantized", weights, pack)


def float8_blocks(height: int, width: int, ending: str) -> Packing:
    def pack(rng: np.random.Generator, outputs: int, inputs: int) -> tuple[dict[str, torch.Tensor], Array]:
        numbers = torch.from_numpy(rng.standard_normal((outputs, inputs), np.float32) * 40).to(torch.float8_e4m3fn)
        scales = scales_of(rng, -(-outputs // height), -(-inputs // width)) / 8
        dense = numbers.float().numpy()
        for row in range(outputs):
            for column in range(inputs):
                dense[row, column] *= scales[row // height, column // width].item()
        return {".weight": numbers, ending: scales}, dense

    if ending == ".weight_scale":
        weights = {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [height, width]}
        return compressed("float-quantized", weights, pack)
    settings = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [height, width]}
    return Packing("fp8-blocks", settings, pack)


PACKINGS = (
    gptq(4, 16, symmetric=True, ordered=False, version="gptq"),
    gptq(4, 16, symmetric=False, ordered=True, version="gptq"),
    gptq(4, 8, symmetric=False, ordered=False, version="gptq_v2"),
    gptq(4, -1, symmetric=False, ordered=False, version="gptq"),
    gptq(8, 16, symmetric=False, ordered=True, version="gptq"),
    awq(16),
    pack_quantized(4, 16, symmetric=True),
    pack_quantized(4, 16, symmetric=False, ordered=True),
    pack_quantized(4, -1, symmetric=False),
    pack_quantized(8, 16, symmetric=False),
    int8("channel"),
    int8("tensor"),
    float8("channel"),
    float8("tensor"),
    float8_blocks(24, 20, ".weight_scale"),
    float8_blocks(24, 20, ".weight_scale_inv"),
)


BY_NAME = {packing.name: packing for packing in PACKINGS}


@pytest.fixture(params=BY_NAME)
def packing(request: pytest.FixtureRequest) -> Packing:
    """Every format in its variants."""
    return BY_NAME[request.param]
