"""Weights [O, I] of a projection in the forms that kernels read: plain, int8 per output, GGUF blocks as stored."""

from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from triptych.kernels.gguf_blocks import GGUF_BLOCKS, GgufKind, unpacked

OUTPUT_TILE = 16
"""Outputs that an `Int8Weight` keeps side by side: the 32-bit lanes of a 512-bit register."""
INPUT_TILE = 4
"""Inputs of one output that it keeps together: the bytes that one lane of a dot-product instruction takes."""
GGUF_BLOCK = 32
"""Elements that have a scale of their own in most kinds of GGUF block."""


@dataclass(frozen=True, slots=True, eq=False)
class DenseWeight:
    """Plain numbers, row-major as checkpoints store them: usually a view of a mapped file.

    Attributes:
        values: [O, I] of any floating-point type.
    """

    values: Tensor

    def __post_init__(self) -> None:
        _require(self.values.dim() == 2, f"values must be [O, I], got {list(self.values.shape)}")

    @property
    def outputs(self) -> int:
        """O."""
        return self.values.shape[0]

    @property
    def inputs(self) -> int:
        """I."""
        return self.values.shape[1]


@dataclass(frozen=True, slots=True, eq=False)
class Int8Weight:
    """weight[o, i] = scales[o] · values[o // 16, i // 4, o % 16, i % 4], symmetric around zero.

    Attributes:
        values: [⌈O/16⌉, ⌈I/4⌉, 16, 4] int8, zeros beyond O and I, contiguous.
        scales: [O] float32.
        inputs: I.
    """

    values: Tensor
    scales: Tensor
    inputs: int

    def __post_init__(self) -> None:
        tiles = (-(-self.outputs // OUTPUT_TILE), -(-self.inputs // INPUT_TILE), OUTPUT_TILE, INPUT_TILE)
        shape, dtype = tuple(self.values.shape), self.values.dtype
        _require(
            shape == tiles and dtype is torch.int8, f"values must be int8 {list(tiles)}, got {dtype} {list(shape)}"
        )
        _require(self.scales.dtype is torch.float32, f"scales must be float32, got {self.scales.dtype}")

    @property
    def outputs(self) -> int:
        """O."""
        return self.scales.shape[0]


@dataclass(frozen=True, slots=True, eq=False)
class GgufWeight:
    """Rows of blocks, byte for byte as a GGUF file has them (ggml's block_q4_0, block_q4_K and so on).

    Attributes:
        blocks: [O, I / elements of a block · its bytes] uint8, contiguous: a view of the mapped file.
        kind: How a block is packed.
        inputs: I, a multiple of a block's elements.
    """

    blocks: Tensor
    kind: GgufKind
    inputs: int

    def __post_init__(self) -> None:
        elements, size = GGUF_BLOCKS[self.kind]
        _require(self.inputs % elements == 0, f"inputs must be a multiple of {elements}, got {self.inputs}")
        row, shape = self.inputs // elements * size, list(self.blocks.shape)
        _require(
            len(shape) == 2 and shape[1] == row and self.blocks.dtype is torch.uint8,
            f"blocks must be uint8 [O, {row}] for {self.inputs} inputs, got {self.blocks.dtype} {shape}",
        )

    @property
    def outputs(self) -> int:
        """O."""
        return self.blocks.shape[0]


Weight = DenseWeight | Int8Weight | GgufWeight


def dequantize(weight: Weight, rows: slice | Tensor | None = None) -> Tensor:
    """The numbers that a weight stands for: the definition of every form.

    Args:
        weight: [O, I].
        rows: Which outputs, in steps of one or as int64 [n]; None means all.

    Returns:
        [n, I] float32, the caller's own except for a float32 `DenseWeight`, of which it may be a view.
    """
    rows = slice(None) if rows is None else rows
    match weight:
        case DenseWeight():
            return weight.values[rows].float()
        case Int8Weight():
            chosen = torch.arange(weight.outputs, device=weight.values.device)[rows]
            tile, lane = chosen // OUTPUT_TILE, chosen % OUTPUT_TILE
            values = weight.values[tile, :, lane].reshape(len(chosen), -1)[:, : weight.inputs]
            return values.float().mul_(weight.scales[chosen].unsqueeze(1))
        case GgufWeight():
            packed = weight.blocks[rows].reshape(-1, GGUF_BLOCKS[weight.kind][1])
            return unpacked(packed, weight.kind).reshape(-1, weight.inputs)
        case _:
            assert_never(weight)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
