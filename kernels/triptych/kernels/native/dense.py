"""Projections by plain weights, in C++: read as they are stored, never rearranged."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from triptych.kernels.native.argmax import Merge, Partials
from triptych.kernels.native.isa import Isa
from triptych.kernels.native.library import Kernel, load_kernel
from triptych.kernels.native.projection import MAX_PARTS
from triptych.kernels.native.team import submit
from triptych.kernels.weights import DenseWeight


class Part(ctypes.Structure):
    """Mirror of `Part` in src/linear_dense.cpp."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("outputs", ctypes.c_int64),
        ("wide", ctypes.c_int64),
    )


class LinearArgs(ctypes.Structure):
    """Mirror of `LinearArgs` in src/linear_dense.cpp."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("inner", ctypes.c_int64),
        ("is_bf16", ctypes.c_int64),
        ("parts", ctypes.c_int64),
        ("part", Part * MAX_PARTS),
    )


class ArgmaxArgs(ctypes.Structure):
    """Mirror of `ArgmaxArgs` in src/linear_dense.cpp."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("ids", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("inner", ctypes.c_int64),
        ("is_bf16", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
        ("pieces", ctypes.c_int64),
    )


class Dense:
    """`ProjectionKernels` for `DenseWeight`."""

    def __init__(self, isa: Isa) -> None:
        self._linears: Kernel[LinearArgs] = load_kernel("linear_dense", "linears", LinearArgs, isa)
        self._gated: Kernel[LinearArgs] = load_kernel("linear_dense", "gated_linear", LinearArgs, isa)
        self._argmax: Kernel[ArgmaxArgs] = load_kernel("linear_dense", "linear_argmax", ArgmaxArgs, isa)
        self._merge = Merge(isa)

    def takes(self, x: Tensor, weight: DenseWeight) -> bool:
        """Weights of the type of x."""
        return weight.values.dtype is x.dtype and weight.values.is_contiguous()

    def project(self, x: Tensor, parts: Sequence[tuple[DenseWeight, Tensor | None, Tensor]]) -> None:
        """See `triptych.kernels.linears`."""
        self._submit(self._linears, x, parts)

    def gated(self, x: Tensor, gate: DenseWeight, up: DenseWeight, out: Tensor) -> None:
        """See `triptych.kernels.gated_linear`."""
        self._submit(self._gated, x, ((gate, None, out), (up, None, out)))

    def argmax(self, x: Tensor, weight: DenseWeight, ids: Tensor, values: Tensor) -> None:
        """See `triptych.kernels.linear_argmax`."""
        rows, inner = x.shape
        partials = Partials.of(weight.outputs, rows)
        tensors = (x, weight.values, partials.values, partials.ids)
        is_bf16 = x.dtype is torch.bfloat16
        sizes = (rows, inner, is_bf16, weight.outputs, partials.parts)
        submit(self._argmax, ArgmaxArgs(*(tensor.data_ptr() for tensor in tensors), *sizes), *tensors)
        self._merge(partials, ids, values)

    def _submit(
        self, kernel: Kernel[LinearArgs], x: Tensor, parts: Sequence[tuple[DenseWeight, Tensor | None, Tensor]]
    ) -> None:
        described = (Part * MAX_PARTS)(*(_part(*part) for part in parts))
        args = LinearArgs(x.data_ptr(), *x.shape, x.dtype is torch.bfloat16, len(parts), described)
        submit(kernel, args, x, *(tensor for weight, bias, out in parts for tensor in (weight.values, bias, out)))


def _part(weight: DenseWeight, bias: Tensor | None, out: Tensor) -> Part:
    address = None if bias is None else bias.data_ptr()
    return Part(weight.values.data_ptr(), address, out.data_ptr(), weight.outputs, out.dtype is torch.float32)
