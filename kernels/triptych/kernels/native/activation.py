"""The gate of feed-forward blocks whose projections have a bias, in C++; without one `gated_linear` includes it."""

import ctypes

import torch
from torch import Tensor

from triptych.kernels import silu_mul
from triptych.kernels.native.isa import Isa
from triptych.kernels.native.library import Kernel, load_kernel
from triptych.kernels.native.plain import plain
from triptych.kernels.native.team import submit


def register(isa: Isa) -> None:
    """Makes the kernel the backend of `silu_mul` on CPUs.

    Raises:
        NotAvailable: it cannot be compiled here.
    """
    silu_mul.register("native", "cpu", SiluMul(isa), accepts)


def accepts(gate: Tensor, up: Tensor, out: Tensor) -> bool:
    """Whether the kernel takes these."""
    return plain(gate, up, out) and gate.shape == up.shape == out.shape


class SiluMulArgs(ctypes.Structure):
    """Mirror of `SiluMulArgs` in src/activation.cpp."""

    _fields_ = (
        ("gate", ctypes.c_void_p),
        ("up", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("is_bf16", ctypes.c_int64),
    )


class SiluMul:
    """See `triptych.kernels.silu_mul`."""

    def __init__(self, isa: Isa) -> None:
        self._kernel: Kernel[SiluMulArgs] = load_kernel("activation", "silu_mul", SiluMulArgs, isa)

    def __call__(self, gate: Tensor, up: Tensor, out: Tensor) -> None:
        """Runs it, or records the call."""
        is_bf16 = out.dtype is torch.bfloat16
        args = SiluMulArgs(gate.data_ptr(), up.data_ptr(), out.data_ptr(), out.numel(), is_bf16)
        submit(self._kernel, args, gate, up, out)
