"""Experts rounded to eight bits or four, of which those seldom needed are read: half or a quarter of the bytes.

Both are symmetric around zero (Fate, 2502.12224), and biases stay as they are. With eight bits each row has a scale,
its largest magnitude / 127. With four, every 32 neighbours have one, their largest magnitude / 7 as a float16: ggml's
block Q4_0, in which rows follow each other without a gap, as they need not be whole blocks. No value is off by more
than half of its scale, and in four bits by 7 · 2^-25, since small float16 are off themselves.
"""

from collections.abc import Iterable
from typing import assert_never

import torch
from torch import Tensor
from torch.nn import functional

from triptych.core.errors import InvalidArgument
from triptych.experts.blob import BlobLayout, Expert, Matrix, MatrixParts, Section
from triptych.experts.settings import Rounding
from triptych.kernels import DenseWeight, GgufWeight, Int8Weight, dequantize
from triptych.kernels.compact import ExpertWeight, plain
from triptych.kernels.weights import GGUF_BLOCK, INPUT_TILE, OUTPUT_TILE

_LARGEST = 127
_LARGEST_OF_FOUR_BITS = 7
_ZERO = 8  # as Q4_0 has it


def rounded(expert: Expert, to: Rounding) -> Expert:
    """An expert of plain numbers in eight bits, or in four.

    Raises:
        InvalidArgument: it is not of plain numbers, or a float16 takes no scale of so large ones.
    """
    gate, up, down = (Matrix(_rounded(matrix.weight, to), matrix.bias) for matrix in expert)
    return gate, up, down


def rounded_layout(layout: BlobLayout, to: Rounding) -> BlobLayout:
    """Of the rounded experts of a layer; raises as `rounded` does."""
    return BlobLayout.of(rounded(layout.view(torch.zeros(layout.nbytes, dtype=torch.uint8)), to))


def expand(coarse: Expert, layout: BlobLayout, blob: Tensor) -> None:
    """Writes what a rounded expert stands for into blob [nbytes] uint8, laid out as the exact one.

    Products are float32, rounded to nearest even.
    """
    _write(coarse, (layout.gate, layout.up, layout.down), blob)


def expand_section(coarse: Section, exact: Section, source: Tensor, target: Tensor) -> None:
    """Writes what a section of a rounded blob stands for, as `expand` does, on the device that has both.

    Args:
        coarse: Of the rounded layout.
        exact: Of the exact one.
        source: The rounded section's bytes, uint8.
        target: The exact section's.
    """
    _write((parts.view(source) for parts in coarse.matrices), exact.matrices, target)


def _write(coarse: Iterable[Matrix], exact: Iterable[MatrixParts], target: Tensor) -> None:
    target.zero_()
    for matrix, parts in zip(coarse, exact, strict=True):
        assert (parts.bias is None) == (matrix.bias is None), "either form of an expert has a bias, or neither"
        parts.values.view(target).copy_(_expanded(matrix.weight, *parts.values.shape))
        if parts.bias is not None and matrix.bias is not None:
            parts.bias.view(target).copy_(matrix.bias)


def _expanded(weight: ExpertWeight, outputs: int, inputs: int) -> Tensor:
    """[O, I]; of four bits without what fills the last block."""
    return dequantize(plain(weight)).flatten()[: outputs * inputs].view(outputs, inputs)


def _rounded(weight: ExpertWeight, to: Rounding) -> Int8Weight | GgufWeight:
    if not isinstance(weight, DenseWeight):
        raise InvalidArgument(
            "experts.lossy rounds weights of plain numbers, those of this model are rounded already: "
            "use quantization none, or leave experts.lossy out",
            field="experts.lossy",
        )
    match to:
        case "int8":
            return _int8(weight.values.float())
        case "int4":
            return _int4(weight.values.float())
        case _:
            assert_never(to)


def _int8(values: Tensor) -> Int8Weight:
    outputs, inputs = values.shape
    scales = values.abs().amax(1) / _LARGEST
    levels = values / torch.where(scales == 0, 1.0, scales).unsqueeze(1)
    levels = levels.round_().clamp_(-_LARGEST, _LARGEST).to(torch.int8)
    padded = functional.pad(levels, (0, -inputs % INPUT_TILE, 0, -outputs % OUTPUT_TILE))
    tiles = padded.view(-1, OUTPUT_TILE, padded.shape[1] // INPUT_TILE, INPUT_TILE).transpose(1, 2)
    return Int8Weight(tiles.contiguous(), scales, inputs)


def _int4(values: Tensor) -> GgufWeight:
    groups = functional.pad(values.flatten(), (0, -values.numel() % GGUF_BLOCK)).view(-1, GGUF_BLOCK)
    scales = (groups.abs().amax(1, keepdim=True) / _LARGEST_OF_FOUR_BITS).half()
    if not scales.isfinite().all():
        raise InvalidArgument(
            f"experts.lossy int4 takes weights below {_LARGEST_OF_FOUR_BITS * torch.finfo(torch.half).max:,.0f} "
            f"in magnitude, got {values.abs().max():,.0f}: use int8, or leave experts.lossy out",
            field="experts.lossy",
        )
    levels = groups / torch.where(scales == 0, 1.0, scales.float())
    levels = levels.round_().clamp_(-_LARGEST_OF_FOUR_BITS, _LARGEST_OF_FOUR_BITS).add_(_ZERO).to(torch.uint8)
    low, high = levels.view(-1, 2, GGUF_BLOCK // 2).unbind(1)
    return GgufWeight(torch.cat([scales.view(torch.uint8), low | high << 4], 1), "Q4_0", GGUF_BLOCK)
