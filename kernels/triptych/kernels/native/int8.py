"""Projections by int8 weights, in C++; rows of x become 8 bits too, each with a scale and a zero point."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from triptych.kernels.native.argmax import Merge, Partials
from triptych.kernels.native.isa import Isa
from triptych.kernels.native.library import Kernel, load_kernel
from triptych.kernels.native.products import FEW_ROWS, PackedPart, ProductArgs, Purpose, submit_products
from triptych.kernels.native.team import submit, workspace
from triptych.kernels.weights import INPUT_TILE, Int8Weight

MAX_INPUTS = 1 << 16
"""More inputs could overflow the 32 bits of a dot product."""


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
        """All that are contiguous and not too wide."""
        tensors = (weight.values, weight.scales, weight.sums)
        return weight.inputs < MAX_INPUTS and all(tensor.is_contiguous() for tensor in tensors)

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
    return PackedPart(weight.values, weight.scales, weight.sums, bias, out, weight.outputs)


def _quantised_bytes(rows: int, inputs: int) -> int:
    """What a row takes among few, or a vector of sixteen rows among many (src/linear_int8.cpp)."""
    if rows <= FEW_ROWS:
        return rows * (64 + -(-inputs // 64) * 64)
    return -(-rows // 16) * (128 + -(-inputs // INPUT_TILE) * 64)
