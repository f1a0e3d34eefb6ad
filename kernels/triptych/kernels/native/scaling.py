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
    """Makes the kernel the backend of `scale`, `softcap` and `add_to` on CPUs.

    Raises:
        NotAvailable: it cannot be compiled here.
    """
    scaling = Scaling(isa)
    reference.scale.register("native", "cpu", scaling.scale, lambda x, factor, out: _alike(x, out))
    reference.softcap.register("native", "cpu", scaling.softcap, lambda x, cap, out: _alike(x, out))
    reference.add_to.register("native", "cpu", scaling.add_to, _alike)


def _alike(first: Tensor, *others: Tensor) -> bool:
    return plain(first, *others) and all(other.shape == first.shape for other in others)


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


class Scaling:
    """The three ops."""

    def __init__(self, isa: Isa) -> None:
        self._kernel: Kernel[ScalingArgs] = load_kernel("scaling", "scaling", ScalingArgs, isa)

    def scale(self, x: Tensor, factor: float, out: Tensor) -> None:
        """See `triptych.kernels.scale`."""
        self._submit(Step.SCALE, factor, x, None, out)

    def softcap(self, x: Tensor, cap: float, out: Tensor) -> None:
        """See `triptych.kernels.softcap`."""
        self._submit(Step.SOFTCAP, cap, x, None, out)

    def add_to(self, x: Tensor, residual: Tensor, out: Tensor) -> None:
        """See `triptych.kernels.add_to`."""
        self._submit(Step.ADD_TO, 0.0, x, residual, out)

    def _submit(self, step: Step, number: float, x: Tensor, residual: Tensor | None, out: Tensor) -> None:
        address = None if residual is None else residual.data_ptr()
        sizes = (x.numel(), x.dtype is torch.bfloat16, step, number)
        submit(self._kernel, ScalingArgs(x.data_ptr(), address, out.data_ptr(), *sizes), x, residual, out)
