"""Projections by int8 weights, in C++; x becomes 8 bits too, with a scale and a zero point for every 64 inputs."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from triptych.kernels.native.argmax import Merge, Partials
from triptych.kernels.native.isa import Isa
from triptych.kernels.native.library import Kernel, load_kernel
from triptych.kernels.native.products import FEW_ROWS, PackedPart, ProductArgs, Purpose, submit_products
from triptych.kernels.native.team import submit, workspace
from triptych.kernels.weights import Int8Weight

BLOCK_INPUTS = 64
"""Inputs of a row of x that share a scale and a zero point."""


class QuantiseArgs(ctypes.Structure):
    """Mirror of `QuantiseArgs` in src/linear_int8.cpp."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("is_bf16", ctypes.c_int64),
    )


class Int8:
    """`ProjectionKernels` for `Int8Weight`."""

    def __init__(self, isa: Isa) -> None:
        self._quantise: Kernel[QuantiseArgs] = load_kernel("linear_int8", "int8_quantise", QuantiseArgs, isa)
        self._product: Kernel[ProductArgs] = load_kernel("linear_int8", "int8_product", ProductArgs, isa)
        self._merge = Merge(isa)

    def takes(self, x: Tensor, weight: Int8Weight) -> bool:
        """All that are contiguous."""
        return weight.values.is_contiguous() and weight.scales.is_contiguous()

    def project(self, x: Tensor, parts: Sequence[tuple[Int8Weight, Tensor | None, Tensor]]) -> None:
        """See `triptych.kernels.linears`."""
        self._submit(Purpose.PROJECT, x, [_packed(weight, bias, out) for weight, bias, out in parts])

    def gated(self, x: Tensor, gate: Int8Weight, up: Int8Weight, out: Tensor) -> None:
        """See `triptych.kernels.gated_linear`."""
        self._submit(Purpose.GATE, x, (_packed(gate, None, out), _packed(up, None, out)))

    def argmax(self, x: Tensor, weight: Int8Weight, ids: Tensor, values: Tensor) -> None:
        """See `triptych.kernels.linear_argmax`."""
        partials = Partials.of(weight.outputs, x.shape[0])
        self._submit(Purpose.LARGEST, x, (_packed(weight, None, None),), partials)
        self._merge(partials, ids, values)

    def _submit(
        self, purpose: Purpose, x: Tensor, parts: Sequence[PackedPart], partials: Partials | None = None
    ) -> None:
        quantised = workspace(_quantised_bytes(*x.shape))
        args = QuantiseArgs(x.data_ptr(), quantised.data_ptr(), *x.shape, x.dtype is torch.bfloat16)
        submit(self._quantise, args, x, quantised)
        submit_products(self._product, purpose, x, quantised, parts, partials=partials)


def _packed(weight: Int8Weight, bias: Tensor | None, out: Tensor | None) -> PackedPart:
    return PackedPart(weight.values, weight.scales, bias, out, weight.outputs)


def row_bytes(inputs: int) -> int:
    """Of a quantised row: `RowBlock`s of src/int8_rows.h."""
    header = 8
    return -(-inputs // BLOCK_INPUTS) * (BLOCK_INPUTS + header)


def _quantised_bytes(rows: int, inputs: int) -> int:
    """As many blocks of few rows, or of vectors of sixteen rows among many (src/linear_int8.cpp)."""
    return (rows if rows <= FEW_ROWS else -(-rows // 16) * 16) * row_bytes(inputs)
