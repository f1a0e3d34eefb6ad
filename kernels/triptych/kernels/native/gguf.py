"""Projections by weights in GGUF blocks, in C++: the blocks are read where the file has them."""

import ctypes
from collections.abc import Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor

from triptych.kernels.gguf_blocks import GGUF_BLOCKS, GgufKind
from triptych.kernels.native.argmax import Merge, Partials
from triptych.kernels.native.isa import Isa
from triptych.kernels.native.library import Kernel, load_kernel
from triptych.kernels.native.products import FEW_ROWS, PackedPart, ProductArgs, Purpose, submit_products
from triptych.kernels.native.team import submit, workspace
from triptych.kernels.weights import GGUF_BLOCK, GgufWeight

KINDS: Mapping[GgufKind, int] = {kind: number for number, kind in enumerate(GGUF_BLOCKS)}
"""As src/gguf.h numbers them."""

MAX_INPUTS = 1 << 15
"""Of wider weights, sixteen outputs unpacked to float32 would not fit into a thread's scratch memory."""

_FEW_BYTES = 96
"""That a block of 32 activations takes at most among few rows (src/gguf_rows.h), for whole groups of four blocks."""
_PANEL_BYTES = 640
"""That blocks of 16 rows take among many."""


class QuantiseArgs(ctypes.Structure):
    """Mirror of `QuantiseArgs` in src/linear_gguf.cpp."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("kind", ctypes.c_int64),
    )


class Gguf:
    """`ProjectionKernels` for `GgufWeight`.

    bfloat16 rows are quantised to 8 bits in blocks of 32; float32 rows meet the dequantised weights.
    """

    def __init__(self, isa: Isa) -> None:
        self._quantise: Kernel[QuantiseArgs] = load_kernel("linear_gguf", "gguf_quantise", QuantiseArgs, isa)
        self._quantised: Kernel[ProductArgs] = load_kernel("linear_gguf", "gguf_product", ProductArgs, isa)
        self._exact: Kernel[ProductArgs] = load_kernel("linear_gguf_f32", "gguf_product_f32", ProductArgs, isa)
        self._merge = Merge(isa)

    def takes(self, x: Tensor, weight: GgufWeight) -> bool:
        """All that are contiguous and not too wide."""
        return weight.inputs <= MAX_INPUTS and weight.blocks.is_contiguous()

    def project(self, x: Tensor, parts: Sequence[tuple[GgufWeight, Tensor | None, Tensor]]) -> None:
        """See `triptych.kernels.linears`."""
        for kind, alike in groupby(parts, key=lambda part: part[0].kind):
            packed = [_packed(weight, bias, out) for weight, bias, out in alike]
            self._submit(Purpose.PROJECT, x, kind, packed)

    def gated(self, x: Tensor, gate: GgufWeight, up: GgufWeight, out: Tensor) -> None:
        """See `triptych.kernels.gated_linear`."""
        self._submit(Purpose.GATE, x, gate.kind, (_packed(gate, None, out), _packed(up, None, out)))

    def argmax(self, x: Tensor, weight: GgufWeight, ids: Tensor, values: Tensor) -> None:
        """See `triptych.kernels.linear_argmax`."""
        partials = Partials.of(weight.outputs, x.shape[0])
        self._submit(Purpose.LARGEST, x, weight.kind, (_packed(weight, None, None),), partials)
        self._merge(partials, ids, values)

    def _submit(
        self,
        purpose: Purpose,
        x: Tensor,
        kind: GgufKind,
        parts: Sequence[PackedPart],
        partials: Partials | None = None,
    ) -> None:
        number = KINDS[kind]
        if x.dtype is torch.float32:
            submit_products(self._exact, purpose, x, x, parts, number, partials)
            return
        quantised = workspace(_quantised_bytes(*x.shape))
        submit(self._quantise, QuantiseArgs(x.data_ptr(), quantised.data_ptr(), *x.shape, number), x, quantised)
        submit_products(self._quantised, purpose, x, quantised, parts, number, partials)


def _packed(weight: GgufWeight, bias: Tensor | None, out: Tensor | None) -> PackedPart:
    return PackedPart(weight.blocks, None, bias, out, weight.outputs)


def row_bytes(inputs: int) -> int:
    """Of a quantised row among few, at most."""
    return -(-(inputs // GGUF_BLOCK) // 4) * 4 * _FEW_BYTES


def _quantised_bytes(rows: int, inputs: int) -> int:
    blocks = inputs // GGUF_BLOCK
    if rows <= FEW_ROWS:
        return rows * row_bytes(inputs)
    return -(-rows // 16) * blocks * _PANEL_BYTES
