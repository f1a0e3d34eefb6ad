"""Factors and caps of whole tensors, and the sum of a residual stream with its copy, in C++."""

import ctypes
from enum import IntEnum

import torch
from torch import Tensor

from triptych.kernels import scaling as reference
from triptych.kernels.native.isa import Isa
from triptych.kernels.native.library import Kernel, load_kernel
from triptych.kernels.native.plain import plain
from triptych.kernels.native.team import submit


class Step(IntEnum):
    """Mirror of `Step` in src/scaling.cpp."""

    SCALE = 0
    SOFTCAP = 1
    ADD_TO = 2


def register(isa: Isa) -> None:
    """Makes the kernels the backend of `scale`, `softcap`, `add_to` and `add_gated` on CPUs.

    Raises:
        NotAvailable: it cannot be compiled here.
    """
    scaling = Scaling(isa)
    reference.scale.register("native", "cpu", scaling.scale, lambda x, factor, out: _alike(x, out))
    reference.softcap.register("native", "cpu", scaling.softcap, lambda x, cap, out: _alike(x, out))
    reference.add_to.register("native", "cpu", scaling.add_to, _alike)
    reference.add_gated.register(
        "native",
        "cpu",
        scaling.add_gated,
        lambda x, logits, out: x.dim() == 2 and _alike(x, out) and (logits is None or _is_gate(logits, x)),
    )


def _alike(first: Tensor, *others: Tensor) -> bool:
    return plain(first, *others) and all(other.shape == first.shape for other in others)


def _is_gate(logits: Tensor, x: Tensor) -> bool:
    return logits.dtype is torch.float32 and logits.shape == (len(x), 1) and logits.is_contiguous()


class ScalingArgs(ctypes.Structure):
    """Mirror of `ScalingArgs` in src/scaling.cpp."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("residual", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("is_bf16", ctypes.c_int64),
        ("step", ctypes.c_int64),
        ("number", ctypes.c_double),
    )


class GatedArgs(ctypes.Structure):
    """Mirror of `GatedArgs` in src/scaling.cpp."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("logits", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("is_bf16", ctypes.c_int64),
    )


class Scaling:
    """The four ops."""

    def __init__(self, isa: Isa) -> None:
        self._kernel: Kernel[ScalingArgs] = load_kernel("scaling", "scaling", ScalingArgs, isa)
        self._gated: Kernel[GatedArgs] = load_kernel("scaling", "add_gated", GatedArgs, isa)

    def scale(self, x: Tensor, factor: float, out: Tensor) -> None:
        """See `triptych.kernels.scale`."""
        self._submit(Step.SCALE, factor, x, None, out)

    def softcap(self, x: Tensor, cap: float, out: Tensor) -> None:
        """See `triptych.kernels.softcap`."""
        self._submit(Step.SOFTCAP, cap, x, None, out)

    def add_to(self, x: Tensor, residual: Tensor, out: Tensor) -> None:
        """See `triptych.kernels.add_to`."""
        self._submit(Step.ADD_TO, 0.0, x, residual, out)

    def add_gated(self, x: Tensor, logits: Tensor | None, out: Tensor) -> None:
        """See `triptych.kernels.add_gated`."""
        address = None if logits is None else logits.data_ptr()
        args = GatedArgs(x.data_ptr(), address, out.data_ptr(), *x.shape, x.dtype is torch.bfloat16)
        submit(self._gated, args, x, logits, out)

    def _submit(self, step: Step, number: float, x: Tensor, residual: Tensor | None, out: Tensor) -> None:
        address = None if residual is None else residual.data_ptr()
        sizes = (x.numel(), x.dtype is torch.bfloat16, step, number)
        submit(self._kernel, ScalingArgs(x.data_ptr(), address, out.data_ptr(), *sizes), x, residual, out)
