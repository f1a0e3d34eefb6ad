"""The dense projection for few rows in bfloat16, in C++; other shapes and types go to the reference."""

import ctypes
from typing import Any, Protocol

import torch
from torch import Tensor

from triptych.kernels import linear as op
from triptych.kernels.native.isa import ISAS, Isa
from triptych.kernels.native.library import load
from triptych.kernels.weights import DenseWeight, Weight


class Linear(Protocol):
    """The signature of the op."""

    def __call__(self, x: Tensor, /, weight: Weight, bias: Tensor | None, out: Tensor) -> None:
        """See `triptych.kernels.linear`."""


MAX_ROWS = 8


def register(isa: Isa) -> None:
    """Makes the kernel the backend of `linear` on CPUs."""
    op.register("native", "cpu", native_linear(op.implementation("reference")))


def native_linear(reference: Linear) -> Linear:
    """The op's implementation with the C++ kernel where it applies.

    Args:
        reference: Takes everything else.

    Raises:
        NotAvailable: the kernel cannot be compiled or run here.
    """
    kernel = _load()

    def linear(x: Tensor, /, weight: Weight, bias: Tensor | None, out: Tensor) -> None:
        rows = x.shape[0]
        given = (x, out) if bias is None else (x, out, bias)
        few = 0 < rows <= MAX_ROWS
        if not (few and isinstance(weight, DenseWeight) and _plain(weight.values, *given)):
            reference(x, weight, bias, out)
            return
        address = None if bias is None else bias.data_ptr()
        kernel(x.data_ptr(), weight.values.data_ptr(), address, out.data_ptr(), rows, x.shape[1], weight.outputs)

    return linear


def _plain(*tensors: Tensor) -> bool:
    return all(t.dtype is torch.bfloat16 and t.is_contiguous() for t in tensors)


def _load() -> Any:
    library = load("linear_few", ISAS[0])
    kernel = library.triptych_linear_bf16
    kernel.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 3
    kernel.restype = None
    return kernel
