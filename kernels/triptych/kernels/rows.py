"""Rows on their way between the ranks that divide experts: chosen, packed, summed."""

import torch
from torch import Tensor

from triptych.kernels.dispatch import Op, require_shape

FP8 = torch.float8_e4m3fn
"""Four bits of exponent, three of mantissa, no infinity (arXiv:2209.05433)."""

SMALLEST_PEAK = 2.0**-117
"""Of a row that is not taken for zeros: its scale is a normal float32, and so is one over it."""


@Op
def gather_rows(x: Tensor, rows: Tensor, out: Tensor) -> None:
    """Looks rows up: out[m] = x[rows[m]].

    Args:
        x: [N, W]; the elements of a row lie side by side.
        rows: [M] int64, each in [0, N).
        out: [M, W] of the type of `x`; rows may be further apart than W.
    """
    require_shape(out, len(rows), x.shape[1])
    out.copy_(x.index_select(0, rows))


@Op
def sum_rows(x: Tensor, places: Tensor, weights: Tensor, out: Tensor) -> None:
    """Weighted sums of rows: out[t] = Σ weights[t, k] · x[places[t, k]], in float32 and in the order of k.

    Args:
        x: [N, H].
        places: [T, K] int64, each in [0, N).
        weights: [T, K] float32.
        out: [T, H] of the type of `x`.
    """
    require_shape(out, len(places), x.shape[1])
    total = torch.zeros(out.shape, device=x.device)
    for place, weight in zip(places.unbind(1), weights.unbind(1), strict=True):
        total.add_(x[place].float() * weight.unsqueeze(1))
    out.copy_(total)


@Op
def quantize_rows(x: Tensor, values: Tensor, scales: Tensor) -> None:
    """Rounds each row to eight bits, symmetric around zero: x[t] ≈ scales[t] · values[t].

    The element of the largest size becomes 127 in int8 and 448 in FP8. What is off by: at most scales[t] / 2 in int8;
    in FP8 1/16 of an element, or scales[t] / 1024 where it is smaller than scales[t] / 64. Rows hold finite numbers;
    a row with NaN comes back as NaN, and one whose largest is below `SMALLEST_PEAK` as zeros.

    Args:
        x: [T, H].
        values: [T, H] int8 or FP8; rows may be further apart than H.
        scales: [T] float32; any stride. 0 for a row of zeros.
    """
    require_shape(values, *x.shape)
    require_shape(scales, len(x))
    wide, most = x.float(), largest(values.dtype)
    peaks = wide.abs().amax(-1) if x.numel() else wide.new_zeros(len(x))
    peaks = peaks.masked_fill(peaks < SMALLEST_PEAK, 0)
    scales.copy_(peaks / most)
    whole = torch.full_like(peaks, most)
    scaled = wide * (whole / torch.where(peaks > 0, peaks, whole)).unsqueeze(1)
    if values.dtype is torch.int8:
        values.copy_(scaled.round().nan_to_num(0))
    else:
        values.copy_(scaled.clamp(-most, most).to(values.dtype))


@Op
def dequantize_rows(values: Tensor, scales: Tensor, out: Tensor) -> None:
    """The rows that `quantize_rows` has packed: out[t] = scales[t] · values[t].

    Args:
        values: [T, H] int8 or FP8; rows may be further apart than H.
        scales: [T] float32; any stride.
        out: [T, H].
    """
    require_shape(out, *values.shape)
    out.copy_(values.float() * scales.unsqueeze(1))


def largest(dtype: torch.dtype) -> float:
    """The largest number that rows are scaled to."""
    return 127.0 if dtype is torch.int8 else torch.finfo(dtype).max
