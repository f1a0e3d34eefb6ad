"""Partial results of a greedy head, and their merging in C++."""

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from triptych.kernels.native.isa import Isa
from triptych.kernels.native.library import Kernel, load_kernel
from triptych.kernels.native.team import submit

_OUTPUTS = 512  # that one piece of a head looks through
_MAX_PARTS = 256


@dataclass(frozen=True, slots=True)
class Partials:
    """The largest output of every row within each part of the outputs.

    Attributes:
        values: [P, T] float32.
        ids: [P, T] int64.
    """

    values: Tensor
    ids: Tensor

    @classmethod
    def of(cls, outputs: int, rows: int) -> "Partials":
        """Not filled yet."""
        parts = max(1, min(_MAX_PARTS, outputs // _OUTPUTS))
        return cls(torch.empty(parts, rows), torch.empty(parts, rows, dtype=torch.int64))

    @property
    def parts(self) -> int:
        """P."""
        return self.values.shape[0]


class MergeArgs(ctypes.Structure):
    """Mirror of `MergeArgs` in src/argmax.cpp."""

    _fields_ = (
        ("values", ctypes.c_void_p),
        ("ids", ctypes.c_void_p),
        ("largest", ctypes.c_void_p),
        ("places", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("parts", ctypes.c_int64),
    )


class Merge:
    """Makes one result per row of the partial ones."""

    def __init__(self, isa: Isa) -> None:
        self._kernel: Kernel[MergeArgs] = load_kernel("argmax", "argmax_merge", MergeArgs, isa)

    def __call__(self, partials: Partials, ids: Tensor, values: Tensor) -> None:
        """Writes ids [T] int64 and values [T] float32: the lowest id of equal values; NaN is never the largest."""
        tensors = (partials.values, partials.ids, values, ids)
        args = MergeArgs(*(tensor.data_ptr() for tensor in tensors), ids.shape[0], partials.parts)
        submit(self._kernel, args, *tensors)
