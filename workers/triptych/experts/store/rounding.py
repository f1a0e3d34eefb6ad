"""Experts rounded to eight bits: half the bytes to read, or less, of those that are seldom needed (Fate, 2502.12224).

Rows are symmetric around zero. Each has a scale of its own, its largest magnitude / 127: no value is off by more than
half of it. Biases stay as they are.
"""

import torch
from torch import Tensor
from torch.nn import functional

from triptych.core.errors import InvalidArgument
from triptych.experts.blob import BlobLayout, Expert, Matrix
from triptych.kernels import DenseWeight, Int8Weight, dequantize
from triptych.kernels.compact import plain
from triptych.kernels.weights import INPUT_TILE, OUTPUT_TILE

_LARGEST = 127


def rounded(expert: Expert) -> Expert:
    """An expert of plain numbers as one of eight bits.

    Raises:
        InvalidArgument: it is not of plain numbers.
    """
    gate, up, down = (Matrix(_rounded(matrix), matrix.bias) for matrix in expert)
    return gate, up, down


def rounded_layout(layout: BlobLayout) -> BlobLayout:
    """Of the rounded experts of a layer; raises as `rounded` does."""
    return BlobLayout.of(rounded(layout.view(torch.zeros(layout.nbytes, dtype=torch.uint8))))


def expand(coarse: Expert, layout: BlobLayout, blob: Tensor) -> None:
    """Writes what a rounded expert stands for into blob [nbytes] uint8, laid out as the exact one.

    Products are float32, rounded to nearest even.
    """
    wide = (Matrix(DenseWeight(dequantize(plain(matrix.weight))), matrix.bias) for matrix in coarse)
    gate, up, down = wide
    layout.pack((gate, up, down), blob)


def _rounded(matrix: Matrix) -> Int8Weight:
    match matrix.weight:
        case DenseWeight(values):
            return _int8(values.float())
        case _:
            raise InvalidArgument(
                "experts.lossy rounds weights of plain numbers, those of this model are rounded already: "
                "use quantization none, or leave experts.lossy out",
                field="experts.lossy",
            )


def _int8(values: Tensor) -> Int8Weight:
    outputs, inputs = values.shape
    scales = values.abs().amax(1) / _LARGEST
    levels = values / torch.where(scales == 0, 1.0, scales).unsqueeze(1)
    levels = levels.round_().clamp_(-_LARGEST, _LARGEST).to(torch.int8)
    padded = functional.pad(levels, (0, -inputs % INPUT_TILE, 0, -outputs % OUTPUT_TILE))
    tiles = padded.view(-1, OUTPUT_TILE, padded.shape[1] // INPUT_TILE, INPUT_TILE).transpose(1, 2)
    return Int8Weight(tiles.contiguous(), scales, inputs)
