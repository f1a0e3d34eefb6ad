"""Low-rank adapters in C++: both products of a few rows in one piece of work."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from triptych.kernels.low_rank import Adapted, low_rank
from triptych.kernels.native.isa import Isa
from triptych.kernels.native.library import Kernel, load_kernel
from triptych.kernels.native.plain import plain
from triptych.kernels.native.projection import MAX_PARTS
from triptych.kernels.native.team import submit

MAX_RANK = (4 << 20) // (8 * 4) - 16
"""Of which eight rows fit into a thread's scratch memory (src/low_rank.cpp)."""


def register(isa: Isa) -> None:
    """Makes the kernel the backend of `low_rank` on CPUs.

    Raises:
        NotAvailable: it cannot be compiled here.
    """
    low_rank.register("native", "cpu", LowRankKernel(isa), accepts)


def accepts(x: Tensor, rows: Tensor, projections: Sequence[Adapted]) -> bool:
    """Whether there is a kernel for these arguments."""
    return (
        plain(x, *(out for _, out in projections))
        and rows.dtype is torch.int32
        and rows.is_contiguous()
        and len(rows) == len(x)
        and len({len(adapters.pairs) for adapters, _ in projections}) == 1
        and all(
            adapters.dtype is x.dtype
            and x.shape[1] == adapters.inputs
            and out.shape == (len(x), adapters.outputs)
            and max(len(pair.down) for pair in adapters.present) <= MAX_RANK
            for adapters, out in projections
        )
    )


class Part(ctypes.Structure):
    """Mirror of `Part` in src/low_rank.cpp."""

    _fields_ = (("table", ctypes.c_void_p), ("out", ctypes.c_void_p), ("outputs", ctypes.c_int64))


class LowRankArgs(ctypes.Structure):
    """Mirror of `LowRankArgs` in src/low_rank.cpp."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("adapter", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("is_bf16", ctypes.c_int64),
        ("adapters", ctypes.c_int64),
        ("parts", ctypes.c_int64),
        ("part", Part * MAX_PARTS),
    )


class LowRankKernel:
    """See `triptych.kernels.low_rank`."""

    def __init__(self, isa: Isa) -> None:
        self._kernel: Kernel[LowRankArgs] = load_kernel("low_rank", "low_rank", LowRankArgs, isa)

    def __call__(self, x: Tensor, rows: Tensor, projections: Sequence[Adapted]) -> None:
        """Runs it, or records the calls."""
        for first in range(0, len(projections), MAX_PARTS):
            self._submit(x, rows, projections[first : first + MAX_PARTS])

    def _submit(self, x: Tensor, rows: Tensor, projections: Sequence[Adapted]) -> None:
        parts = (Part * MAX_PARTS)(
            *(Part(adapters.table.data_ptr(), out.data_ptr(), adapters.outputs) for adapters, out in projections)
        )
        count = len(projections[0][0].pairs)
        is_bf16 = x.dtype is torch.bfloat16
        args = LowRankArgs(x.data_ptr(), rows.data_ptr(), *x.shape, is_bf16, count, len(projections), parts)
        kept = [tensor for adapters, out in projections for tensor in (adapters.table, out)]
        factors = [
            factor for adapters, _ in projections for pair in adapters.present for factor in (pair.down, pair.up)
        ]
        submit(self._kernel, args, x, rows, *kept, *factors)
