"""Root-mean-square norms, in C++."""

import ctypes

import torch
from torch import Tensor

from triptych.kernels import norm as reference
from triptych.kernels.native.isa import Isa
from triptych.kernels.native.library import Kernel, load_kernel
from triptych.kernels.native.plain import plain
from triptych.kernels.native.team import submit


def register(isa: Isa) -> None:
    """Makes the kernels the backend of `rms_norm` and `add_rms_norm` on CPUs.

    Raises:
        NotAvailable: they cannot be compiled here.
    """
    norm = Norm(isa)
    reference.rms_norm.register("native", "cpu", norm.rms_norm, lambda x, w, eps, out: plain(x, w, out))
    reference.add_rms_norm.register("native", "cpu", norm.add_rms_norm, lambda x, r, w, eps, out: plain(x, r, w, out))


class NormArgs(ctypes.Structure):
    """Mirror of `NormArgs` in src/norm.cpp."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("residual", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("is_bf16", ctypes.c_int64),
        ("eps", ctypes.c_double),
    )


class Norm:
    """`rms_norm` and `add_rms_norm`."""

    def __init__(self, isa: Isa) -> None:
        self._kernel: Kernel[NormArgs] = load_kernel("norm", "norm", NormArgs, isa)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
        """See `triptych.kernels.rms_norm`."""
        self._submit(x, None, weight, eps, out)

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
        """See `triptych.kernels.add_rms_norm`."""
        self._submit(x, residual, weight, eps, out)

    def _submit(self, x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, out: Tensor) -> None:
        args = NormArgs(
            x.data_ptr(),
            None if residual is None else residual.data_ptr(),
            weight.data_ptr(),
            out.data_ptr(),
            x.shape[0],
            x.shape[1],
            x.dtype is torch.bfloat16,
            eps,
        )
        submit(self._kernel, args, x, residual, weight, out)
