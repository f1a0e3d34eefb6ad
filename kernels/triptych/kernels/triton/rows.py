"""Rows on their way between ranks (`triptych.kernels.rows`). Here the grids of programs (`row_programs`)."""

import torch
import triton
from torch import Tensor

from triptych.kernels import rows as reference
from triptych.kernels.dispatch import require_shape
from triptych.kernels.triton import row_programs

_COLUMNS = 1024
"""Of a row that a program copies or adds up."""
_WIDEST = 1 << 16
"""A row that is rounded is held in the registers of one program."""


def register(device: str) -> None:
    """Makes the kernels the backend of their ops on a type of device."""
    reference.gather_rows.register("triton", device, gather_rows, lambda x, rows, out: _side_by_side(x, out))
    reference.sum_rows.register("triton", device, sum_rows, lambda x, p, w, out: _side_by_side(x, out))
    reference.quantize_rows.register("triton", device, quantize_rows, _rounds)
    reference.dequantize_rows.register("triton", device, dequantize_rows, lambda v, s, out: _side_by_side(v, out))


def _side_by_side(*tensors: Tensor) -> bool:
    return all(tensor.stride(-1) == 1 for tensor in tensors)


def _rounds(x: Tensor, values: Tensor, scales: Tensor) -> bool:
    return _side_by_side(x, values) and x.shape[1] <= _WIDEST


def gather_rows(x: Tensor, rows: Tensor, out: Tensor) -> None:
    """See `triptych.kernels.gather_rows`."""
    require_shape(out, len(rows), x.shape[1])
    if out.numel():
        x, out = _words(x, out)
        grid = (len(out), triton.cdiv(out.shape[1], _COLUMNS))
        row_programs.gather[grid](x, rows, out, x.stride(0), out.stride(0), out.shape[1], block=_COLUMNS)


def sum_rows(x: Tensor, places: Tensor, weights: Tensor, out: Tensor) -> None:
    """See `triptych.kernels.sum_rows`."""
    require_shape(out, len(places), x.shape[1])
    if out.numel():
        grid = (len(out), triton.cdiv(out.shape[1], _COLUMNS))
        strides = (x.stride(0), places.stride(0), weights.stride(0), out.stride(0))
        row_programs.add_up[grid](
            x, places, weights, out, *strides, out.shape[1], top_k=places.shape[1], block=_COLUMNS
        )


def quantize_rows(x: Tensor, values: Tensor, scales: Tensor) -> None:
    """See `triptych.kernels.quantize_rows`."""
    require_shape(values, *x.shape)
    require_shape(scales, len(x))
    if x.numel():
        is_fp8, width = values.dtype is reference.FP8, x.shape[1]
        strides = (x.stride(0), values.stride(0), scales.stride(0))
        out = values.view(torch.uint8) if is_fp8 else values
        most = reference.largest(values.dtype)
        row_programs.quantize[(len(x),)](
            x, out, scales, *strides, width, most, reference.SMALLEST_PEAK,
            fp8=is_fp8, block=triton.next_power_of_2(width),
        )  # fmt: skip


def dequantize_rows(values: Tensor, scales: Tensor, out: Tensor) -> None:
    """See `triptych.kernels.dequantize_rows`."""
    require_shape(out, *values.shape)
    if out.numel():
        is_fp8 = values.dtype is reference.FP8
        packed = values.view(torch.uint8) if is_fp8 else values
        grid = (len(out), triton.cdiv(out.shape[1], _COLUMNS))
        strides = (packed.stride(0), scales.stride(0), out.stride(0))
        row_programs.dequantize[grid](packed, scales, out, *strides, out.shape[1], fp8=is_fp8, block=_COLUMNS)


def _words(x: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """Both in elements of four bytes, if their rows begin and end at such."""
    parts = (x.shape[1], x.stride(0), out.stride(0), x.storage_offset(), out.storage_offset())
    if x.element_size() >= 4 or any(part * x.element_size() % 4 for part in parts):
        return x, out
    return x.view(torch.int32), out.view(torch.int32)
