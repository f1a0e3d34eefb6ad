"""What one program of a grid does with a row, or with some columns of one: axis 0 of the grid counts rows, 1 columns.

Rows may be further apart than their elements; strides are in elements.
"""

import triton
import triton.language as tl

from triptych.kernels.triton.eight_bits import from_fp8, to_fp8, to_integer


@triton.jit
def gather(x, rows, out, x_stride, out_stride, width, block: tl.constexpr):
    """A row and `block` columns of out = x[rows]."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    inside = columns < width
    source = tl.load(rows + row)
    tl.store(out + row * out_stride + columns, tl.load(x + source * x_stride + columns, mask=inside), mask=inside)


@triton.jit
def add_up(
    x, places, weights, out, x_stride, place_stride, weight_stride, out_stride, width,
    top_k: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """A row and `block` columns of out = Σ weights[k] · x[places[k]]."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    inside = columns < width
    total = tl.zeros([block], dtype=tl.float32)
    for k in range(top_k):
        place = tl.load(places + row * place_stride + k)
        weight = tl.load(weights + row * weight_stride + k)
        total += tl.load(x + place * x_stride + columns, mask=inside, other=0.0).to(tl.float32) * weight
    tl.store(out + row * out_stride + columns, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def quantize(
    x, out, scales, x_stride, out_stride, scale_stride, width, most, smallest,
    fp8: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """A row and its scale; `block` is a power of two that it fits into."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, block)
    inside = columns < width
    values = tl.load(x + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    # The maximum of whole numbers in the order of the floats they are the bits of: NaN is the largest.
    peak = tl.max(tl.abs(values).to(tl.int32, bitcast=True), axis=0).to(tl.float32, bitcast=True)
    peak = tl.where(peak < smallest, 0.0, peak)
    tl.store(scales + row * scale_stride, tl.div_rn(peak, most))
    scaled = values * tl.div_rn(most, tl.where(peak > 0, peak, most))
    scaled = tl.where((scaled >= -most) & (scaled <= most), scaled, tl.where(scaled > 0, most, -most))
    code = to_fp8(scaled) if fp8 else to_integer(scaled).to(tl.int8)
    tl.store(out + row * out_stride + columns, code, mask=inside)


@triton.jit
def dequantize(
    values, scales, out, value_stride, scale_stride, out_stride, width, fp8: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """A row and `block` columns of out = scale · values."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    inside = columns < width
    code = tl.load(values + row * value_stride + columns, mask=inside, other=0)
    number = from_fp8(code) if fp8 else code.to(tl.float32)
    wide = number * tl.load(scales + row * scale_stride)
    tl.store(out + row * out_stride + columns, wide.to(out.dtype.element_ty), mask=inside)
