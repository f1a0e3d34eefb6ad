"""Gates of feed-forward blocks in C++; silu between projections without a bias is part of `gated_linear`."""

import ctypes
from enum import IntEnum

import torch
from torch import Tensor

from triptych.kernels.activation import gelu_mul, gelu_tanh_mul, silu_mul
from triptych.kernels.native.isa import Isa
from triptych.kernels.native.library import Kernel, load_kernel
from triptych.kernels.native.plain import plain
from triptych.kernels.native.team import submit


class Gate(IntEnum):
    """Mirror of `Gate` in src/gates.h."""

    SILU = 0
    GELU = 1
    GELU_TANH = 2
    CLAMPED = 3


def register(isa: Isa) -> None:
    """Makes the kernel the backend of `silu_mul`, `gelu_mul` and `gelu_tanh_mul` on CPUs.

    Raises:
        NotAvailable: it cannot be compiled here.
    """
    silu_mul.register("native", "cpu", GatedMul(isa, Gate.SILU), accepts)
    gelu_mul.register("native", "cpu", GatedMul(isa, Gate.GELU), accepts)
    gelu_tanh_mul.register("native", "cpu", GatedMul(isa, Gate.GELU_TANH), accepts)


def accepts(gate: Tensor, up: Tensor, out: Tensor) -> bool:
    """Whether the kernel takes these."""
    return plain(gate, up, out) and gate.shape == up.shape == out.shape


class GatedArgs(ctypes.Structure):
    """Mirror of `GatedArgs` in src/activation.cpp."""

    _fields_ = (
        ("gate", ctypes.c_void_p),
        ("up", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("is_bf16", ctypes.c_int64),
        ("act", ctypes.c_int64),
    )


class GatedMul:
    """See `triptych.kernels.silu_mul`, `gelu_mul` and `gelu_tanh_mul`."""

    def __init__(self, isa: Isa, gate: Gate) -> None:
        self._kernel: Kernel[GatedArgs] = load_kernel("activation", "gated_mul", GatedArgs, isa)
        self._gate = gate

    def __call__(self, gate: Tensor, up: Tensor, out: Tensor) -> None:
        """Runs it, or records the call."""
        is_bf16 = out.dtype is torch.bfloat16
        args = GatedArgs(gate.data_ptr(), up.data_ptr(), out.data_ptr(), out.numel(), is_bf16, self._gate)
        submit(self._kernel, args, gate, up, out)
