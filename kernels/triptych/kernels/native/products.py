"""Arguments of the projections by quantised weights (src/products.h)."""

import ctypes
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from triptych.kernels.native.argmax import Partials
from triptych.kernels.native.library import Kernel
from triptych.kernels.native.projection import MAX_PARTS
from triptych.kernels.native.team import submit

FEW_ROWS = 8
"""Up to so many rows are bound by reading the weights; more of them are laid out for arithmetic."""


class Purpose(IntEnum):
    """Mirror of `Purpose` in src/products.h."""

    PROJECT = 0
    GATE = 1
    LARGEST = 2


class Part(ctypes.Structure):
    """Mirror of `ProductPart` in src/products.h."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("outputs", ctypes.c_int64),
        ("wide", ctypes.c_int64),
    )


class ProductArgs(ctypes.Structure):
    """Mirror of `ProductArgs` in src/products.h."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("ids", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("is_bf16", ctypes.c_int64),
        ("kind", ctypes.c_int64),
        ("purpose", ctypes.c_int64),
        ("row_bytes", ctypes.c_int64),
        ("cuts", ctypes.c_int64),
        ("parts", ctypes.c_int64),
        ("part", Part * MAX_PARTS),
    )


class PackedPart(NamedTuple):
    """A projection by a quantised weight.

    Attributes:
        packed: The weight's bytes.
        scales: [O] float32, or None.
        bias: [O] or None.
        out: [T, O]; None when only the largest outputs are wanted.
        outputs: O.
    """

    packed: Tensor
    scales: Tensor | None
    bias: Tensor | None
    out: Tensor | None
    outputs: int

    def described(self) -> Part:
        """As the kernels have it."""
        addresses = (_address(tensor) for tensor in self[:4])
        return Part(*addresses, self.outputs, self.out is not None and self.out.dtype is torch.float32)


def submit_products(
    kernel: Kernel[ProductArgs],
    purpose: Purpose,
    x: Tensor,
    prepared: Tensor,
    parts: Sequence[PackedPart],
    kind: int = 0,
    partials: Partials | None = None,
) -> None:
    """Runs or records one call.

    Args:
        kernel: What multiplies.
        purpose: What becomes of the products.
        x: [T, I].
        prepared: What the kernel reads for x: x itself, or what a kernel before it made of x.
        parts: At most `MAX_PARTS`.
        kind: Of GGUF block.
        partials: Where the largest products go.
    """
    row_bytes = parts[0].packed.nbytes // max(1, parts[0].outputs)
    largest = (None, None) if partials is None else (partials.values, partials.ids)
    args = ProductArgs(
        prepared.data_ptr(),
        *map(_address, largest),
        *x.shape,
        x.dtype is torch.bfloat16,
        kind,
        purpose,
        row_bytes,
        0 if partials is None else partials.parts,
        len(parts),
        (Part * MAX_PARTS)(*(part.described() for part in parts)),
    )
    submit(kernel, args, x, prepared, *largest, *(tensor for part in parts for tensor in part[:4]))


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
