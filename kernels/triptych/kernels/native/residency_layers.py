"""The experts of a layer as a compiled pool takes them."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from triptych.kernels.native.residency_args import LayerArgs, RoundedArgs

_POLICIES = {"last-use": 0, "decayed-uses": 1, "fixed": 2}


@dataclass(frozen=True, slots=True)
class LayerScores:
    """Who of a layer's experts is worth a slot.

    Attributes:
        policy: What becomes of the values.
        values: [E].
        steps: Of last use: those that there were.
        decay: Of decayed uses.
        worth: Of one more of them.
    """

    policy: Literal["last-use", "decayed-uses", "fixed"]
    values: Sequence[float]
    steps: float = 0.0
    decay: float = 1.0
    worth: float = 1.0


@dataclass(frozen=True, slots=True)
class RoundedExperts:
    """The same experts rounded, in a file of their own.

    Attributes:
        first: Bytes of a blob's first section.
        nbytes: Of a blob, pages.
        parts: As of `LayerExperts`.
        shapes: [3, 2] outputs and inputs of gate, up and down.
        dtype: Of the exact ones: float32 or bfloat16.
        bits: Of a rounded weight: 8, in an `Int8Weight`; or 4, in blocks Q4_0 in which rows follow each other.
        offsets: [E], in their file, pages.
        checksums: [E] of the pieces of both sections, XXH3.
        piece: Bytes of each; of the last one of a section fewer.
    """

    first: int
    nbytes: int
    parts: tuple[int, ...]
    shapes: tuple[int, ...]
    dtype: torch.dtype
    bits: Literal[8, 4]
    offsets: Sequence[int]
    checksums: Sequence[tuple[int, ...]]
    piece: int


@dataclass(frozen=True, slots=True, eq=False)
class LayerExperts:
    """The experts of a layer, as the pool keeps them.

    Attributes:
        first: Bytes of a blob's first section, which gate and up are in.
        nbytes: Of a blob, pages.
        parts: [3, 3] where values, scales and bias of gate, up and down begin in a blob; -1 for none.
        tables: Of gate, up and down [3, E] int64, rewritten in place.
        flags: [E] int32, as `Arrivals` has them.
        offsets: [E], in the file, pages.
        checksums: [E] of the pieces of both sections, XXH3.
        piece: Bytes of each; of the last one of a section fewer.
        quota: Experts that the layer keeps.
        scores: Which ones these are.
        rounded: What is read of those that the layer does not keep; None: what is read of all.
    """

    first: int
    nbytes: int
    parts: tuple[int, ...]
    tables: tuple[Tensor, Tensor, Tensor]
    flags: Tensor
    offsets: Sequence[int]
    checksums: Sequence[tuple[int, ...]]
    piece: int
    quota: int
    scores: LayerScores
    rounded: RoundedExperts | None = None


def layer_args(layer: LayerExperts) -> LayerArgs:
    """As C++ has it; the tables stay the layer's."""
    count, scores = len(layer.offsets), layer.scores
    return LayerArgs(
        count,
        layer.first,
        layer.nbytes,
        (ctypes.c_int64 * 9)(*layer.parts),
        *(table.data_ptr() for table in layer.tables),
        layer.flags.data_ptr(),
        offset_args(layer.offsets),
        checksum_args(layer.checksums),
        layer.piece,
        layer.quota,
        _POLICIES[scores.policy],
        (ctypes.c_double * count)(*scores.values),
        scores.steps,
        scores.decay,
        scores.worth,
        None if layer.rounded is None else ctypes.pointer(rounded_args(layer.rounded)),
    )


def rounded_args(experts: RoundedExperts) -> RoundedArgs:
    """As C++ has them."""
    return RoundedArgs(
        experts.first,
        experts.nbytes,
        (ctypes.c_int64 * 9)(*experts.parts),
        (ctypes.c_int64 * 6)(*experts.shapes),
        experts.dtype is torch.bfloat16,
        experts.bits,
        offset_args(experts.offsets),
        checksum_args(experts.checksums),
        experts.piece,
    )


def offset_args(offsets: Sequence[int]) -> "ctypes.Array[ctypes.c_int64]":
    """[E]."""
    return (ctypes.c_int64 * len(offsets))(*offsets)


def checksum_args(checksums: Sequence[tuple[int, ...]]) -> "ctypes.Array[ctypes.c_uint64]":
    """[E, pieces]."""
    return (ctypes.c_uint64 * sum(map(len, checksums)))(*(value for expert in checksums for value in expert))
