"""Rows on their way between ranks, in C++."""

import ctypes

import torch
from torch import Tensor

from triptych.kernels import rows as reference
from triptych.kernels.native.isa import Isa
from triptych.kernels.native.library import Kernel, load_kernel
from triptych.kernels.native.team import submit

_ELEMENTS = (torch.float32, torch.bfloat16)
_EIGHT_BITS = (torch.int8, reference.FP8)


def register(isa: Isa) -> None:
    """Makes the kernels the backend of `sum_rows`, `quantize_rows` and `dequantize_rows` on CPUs.

    Raises:
        NotAvailable: they cannot be compiled here.
    """
    rows = Rows(isa)
    reference.sum_rows.register("native", "cpu", rows.sum_rows, _sums)
    reference.quantize_rows.register("native", "cpu", rows.quantize_rows, lambda x, v, s: _packs(x, v, s))
    reference.dequantize_rows.register("native", "cpu", rows.dequantize_rows, lambda v, s, out: _packs(out, v, s))


def _sums(x: Tensor, places: Tensor, weights: Tensor, out: Tensor) -> bool:
    return (
        x.dtype in _ELEMENTS
        and out.dtype is x.dtype
        and places.dtype is torch.int64
        and weights.dtype is torch.float32
        and places.shape == weights.shape
        and out.shape == (len(places), x.shape[1])
        and x.stride(1) == 1
        and all(tensor.is_contiguous() for tensor in (places, weights, out))
    )


def _packs(plain: Tensor, values: Tensor, scales: Tensor) -> bool:
    return (
        plain.dtype in _ELEMENTS
        and values.dtype in _EIGHT_BITS
        and scales.dtype is torch.float32
        and plain.shape == values.shape
        and scales.shape == plain.shape[:1]
        and plain.stride(1) == values.stride(1) == 1
    )


class SumRowsArgs(ctypes.Structure):
    """Mirror of `SumRowsArgs` in src/rows.cpp."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("places", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("top_k", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("stride", ctypes.c_int64),
        ("is_bf16", ctypes.c_int64),
    )


class EightBitArgs(ctypes.Structure):
    """Mirror of `EightBitArgs` in src/rows.cpp."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("x_stride", ctypes.c_int64),
        ("value_stride", ctypes.c_int64),
        ("scale_stride", ctypes.c_int64),
        ("is_bf16", ctypes.c_int64),
        ("is_fp8", ctypes.c_int64),
    )


class Rows:
    """The three ops."""

    def __init__(self, isa: Isa) -> None:
        self._sum: Kernel[SumRowsArgs] = load_kernel("rows", "sum_rows", SumRowsArgs, isa)
        self._quantize: Kernel[EightBitArgs] = load_kernel("rows", "quantize_rows", EightBitArgs, isa)
        self._dequantize: Kernel[EightBitArgs] = load_kernel("rows", "dequantize_rows", EightBitArgs, isa)

    def sum_rows(self, x: Tensor, places: Tensor, weights: Tensor, out: Tensor) -> None:
        """See `triptych.kernels.sum_rows`."""
        tensors = (x, places, weights, out)
        sizes = (*places.shape, x.shape[1], x.stride(0), x.dtype is torch.bfloat16)
        submit(self._sum, SumRowsArgs(*(tensor.data_ptr() for tensor in tensors), *sizes), *tensors)

    def quantize_rows(self, x: Tensor, values: Tensor, scales: Tensor) -> None:
        """See `triptych.kernels.quantize_rows`."""
        submit(self._quantize, _eight_bits(x, values, scales), x, values, scales)

    def dequantize_rows(self, values: Tensor, scales: Tensor, out: Tensor) -> None:
        """See `triptych.kernels.dequantize_rows`."""
        submit(self._dequantize, _eight_bits(out, values, scales), values, scales, out)


def _eight_bits(plain: Tensor, values: Tensor, scales: Tensor) -> EightBitArgs:
    return EightBitArgs(
        plain.data_ptr(),
        values.data_ptr(),
        scales.data_ptr(),
        *plain.shape,
        plain.stride(0),
        values.stride(0),
        scales.stride(0),
        plain.dtype is torch.bfloat16,
        values.dtype is reference.FP8,
    )
