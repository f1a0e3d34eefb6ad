"""Yardsticks measured on the spot: how fast this machine reads memory, and how fast it multiplies registers."""

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from triptych.kernels.native import team
from triptych.kernels.native.isa import supported
from triptych.kernels.native.library import Kernel, load_kernel

Element = Literal["f32", "bf16", "int8"]

_RUNS = 5
_PIECE_BYTES = 256 << 10
_OPERATIONS = {"f32": 2 * 16, "bf16": 2 * 32, "int8": 2 * 64}
"""Of one instruction on sixteen lanes of 32 bits."""
_CHAINS, _STEPS, _DOT_PIECES = 12, 20_000, 64


class ReadArgs(ctypes.Structure):
    """Mirror of `ReadArgs` in src/probe.cpp."""

    _fields_ = (("data", ctypes.c_void_p), ("sums", ctypes.c_void_p), ("bytes", ctypes.c_int64))


class DotArgs(ctypes.Structure):
    """Mirror of `DotArgs` in src/probe.cpp."""

    _fields_ = (
        ("operands", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("pieces", ctypes.c_int64),
        ("steps", ctypes.c_int64),
        ("kind", ctypes.c_int64),
    )


def read_bandwidth(threads: int, size: int = 256 << 20) -> float:
    """Bytes per second that threads read together from memory, at best of a few runs.

    Args:
        threads: How many read.
        size: Bytes to read, far more than the caches hold.

    Raises:
        NotAvailable: the probe cannot be compiled here.
    """
    size = size // 1024 * 1024
    data = torch.ones(size // 8, dtype=torch.int64)
    sums = torch.empty(-(-size // _PIECE_BYTES), dtype=torch.int64)
    kernel: Kernel[ReadArgs] = load_kernel("probe", "read_probe", ReadArgs, supported()[0])
    with _team_of(threads):
        return size / _seconds(kernel, ReadArgs(data.data_ptr(), sums.data_ptr(), size), data, sums)


def dot_peak(threads: int, element: Element) -> float:
    """Operations (a product and a sum are two) per second of dot products that stay in registers.

    Args:
        threads: How many compute.
        element: Of what: float32, bfloat16, or 8-bit integers.

    Raises:
        NotAvailable: the probe cannot be compiled here.
    """
    operands, sums = torch.zeros(128, dtype=torch.uint8), torch.empty(_DOT_PIECES)
    kind = list(_OPERATIONS).index(element)
    kernel: Kernel[DotArgs] = load_kernel("probe", "dot_probe", DotArgs, supported()[0])
    args = DotArgs(operands.data_ptr(), sums.data_ptr(), _DOT_PIECES, _STEPS, kind)
    with _team_of(threads):
        return _DOT_PIECES * _STEPS * _CHAINS * _OPERATIONS[element] / _seconds(kernel, args, operands, sums)


def _seconds(kernel: Kernel[ctypes.Structure], args: ctypes.Structure, *tensors: Tensor) -> float:
    """Of the fastest run."""
    best = float("inf")
    for _ in range(_RUNS):
        start = time.perf_counter()
        team.submit(kernel, args, *tensors)
        best = min(best, time.perf_counter() - start)
    return best


@contextmanager
def _team_of(threads: int) -> Iterator[None]:
    before = team.threads()
    team.resize(threads)
    try:
        yield
    finally:
        team.resize(before)
