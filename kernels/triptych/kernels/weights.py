"""Weights [O, I] of a projection in the forms that kernels read: plain, int8 per output, GGUF blocks as stored."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, assert_never

import torch
from torch import Tensor

GgufKind = Literal["Q4_0", "Q4_1", "Q8_0"]

OUTPUT_TILE = 16
"""Outputs that an `Int8Weight` keeps side by side: the 32-bit lanes of a 512-bit register."""
INPUT_TILE = 4
"""Inputs of one output that it keeps together: the bytes that one lane of a dot-product instruction takes."""
GGUF_BLOCK = 32
"""Elements of one GGUF block."""
GGUF_BLOCK_BYTES: Mapping[GgufKind, int] = {"Q4_0": 18, "Q4_1": 20, "Q8_0": 34}


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
    """Rows of 32-element blocks, byte for byte as a GGUF file has them (ggml's block_q4_0, block_q4_1, block_q8_0).

    Attributes:
        blocks: [O, I/32 · bytes of a block] uint8, contiguous: a view of the mapped file.
        kind: How a block is packed.
        inputs: I, a multiple of 32.
    """

    blocks: Tensor
    kind: GgufKind
    inputs: int

    def __post_init__(self) -> None:
        _require(self.inputs % GGUF_BLOCK == 0, f"inputs must be a multiple of {GGUF_BLOCK}, got {self.inputs}")
        row, shape = self.inputs // GGUF_BLOCK * GGUF_BLOCK_BYTES[self.kind], list(self.blocks.shape)
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
            packed = weight.blocks[rows].reshape(-1, GGUF_BLOCK_BYTES[weight.kind])
            return _UNPACK[weight.kind](packed).reshape(-1, weight.inputs)
        case _:
            assert_never(weight)


def _half(packed: Tensor, start: int) -> Tensor:
    """[n, 1] float32 of the float16 at byte `start` of each block."""
    return packed[:, start : start + 2].clone().view(torch.float16).float()


def _nibbles(packed: Tensor) -> Tensor:
    """[n, 32] float32 of [n, 16] bytes: the low halves are the first 16 elements."""
    return torch.cat([packed & 15, packed >> 4], dim=1).float()


def _unpack_q4_0(packed: Tensor) -> Tensor:
    return _nibbles(packed[:, 2:]).sub_(8).mul_(_half(packed, 0))


def _unpack_q4_1(packed: Tensor) -> Tensor:
    return _nibbles(packed[:, 4:]).mul_(_half(packed, 0)).add_(_half(packed, 2))


def _unpack_q8_0(packed: Tensor) -> Tensor:
    return packed[:, 2:].clone().view(torch.int8).float().mul_(_half(packed, 0))


_UNPACK: Mapping[GgufKind, Callable[[Tensor], Tensor]] = {
    "Q4_0": _unpack_q4_0,
    "Q4_1": _unpack_q4_1,
    "Q8_0": _unpack_q8_0,
}


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
