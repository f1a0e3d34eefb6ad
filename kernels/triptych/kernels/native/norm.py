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
    """Makes the kernel the backend of `rms_norm`, `add_rms_norm` and `add_rms_norm_rows` on CPUs.

    Raises:
        NotAvailable: it cannot be compiled here.
    """
    norm = Norm(isa)
    reference.rms_norm.register("native", "cpu", norm.rms_norm, lambda x, w, eps, out: _accepts(x, w, out))
    reference.add_rms_norm.register(
        "native", "cpu", norm.add_rms_norm, lambda x, r, w, eps, out: _accepts(x, w, out, r)
    )
    reference.add_rms_norm_rows.register(
        "native",
        "cpu",
        norm.add_rms_norm_rows,
        lambda x, r, rows, w, eps, out: (
            plain(x, r, out)
            and _is_weight(w, x)
            and rows.dtype is torch.int64
            and rows.is_contiguous()
            and r.shape == x.shape
            and out.shape == (*rows.shape, *w.shape)
        ),
    )


def _accepts(x: Tensor, weight: Tensor, out: Tensor, residual: Tensor | None = None) -> bool:
    others = (out,) if residual is None else (out, residual)
    return plain(x, *others) and _is_weight(weight, x) and all(other.shape == x.shape for other in others)


def _is_weight(weight: Tensor, x: Tensor) -> bool:
    return weight.shape == x.shape[1:] and weight.is_contiguous() and weight.dtype in (x.dtype, torch.float32)


class NormArgs(ctypes.Structure):
    """Mirror of `NormArgs` in src/norm.cpp."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("residual", ctypes.c_void_p),
        ("picked", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("is_bf16", ctypes.c_int64),
        ("wide_weight", ctypes.c_int64),
        ("eps", ctypes.c_double),
    )


class Norm:
    """The three ops."""

    def __init__(self, isa: Isa) -> None:
        self._kernel: Kernel[NormArgs] = load_kernel("norm", "norm", NormArgs, isa)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
        """See `triptych.kernels.rms_norm`."""
        self._submit(x, None, None, weight, eps, out)

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
        """See `triptych.kernels.add_rms_norm`."""
        self._submit(x, residual, None, weight, eps, out)

    def add_rms_norm_rows(
        self, x: Tensor, residual: Tensor, rows: Tensor, weight: Tensor, eps: float, out: Tensor
    ) -> None:
        """See `triptych.kernels.add_rms_norm_rows`."""
        self._submit(x, residual, rows, weight, eps, out)

    def _submit(
        self, x: Tensor, residual: Tensor | None, rows: Tensor | None, weight: Tensor, eps: float, out: Tensor
    ) -> None:
        tensors = (x, residual, rows, weight, out)
        addresses = (None if tensor is None else tensor.data_ptr() for tensor in tensors)
        types = (x.dtype is torch.bfloat16, weight.dtype is torch.float32)
        submit(self._kernel, NormArgs(*addresses, *out.shape, *types, eps), *tensors)
