"""Numbers rounded to eight bits and back, elementwise, to nearest and ties to even, as torch rounds.

FP8 is made of whole numbers, so that it needs no instruction that only some GPUs have.
"""

import triton
import triton.language as tl

_INTEGERS = tl.constexpr(12582912.0)
"""1.5 · 2²³: what is added to it and taken away again is a whole number, if it was below 2²²."""


@triton.jit
def to_integer(x):
    """float32 of a size below 2²² to the nearest whole number, float32."""
    return (x + _INTEGERS) - _INTEGERS


@triton.jit
def to_fp8(x):
    """float32 of a size of at most 448 to the bits of float8_e4m3fn, uint8."""
    bits = x.to(tl.uint32, bitcast=True)
    size = bits & 0x7FFFFFFF
    # Three bits of the mantissa remain; what carries over goes into the exponent.
    normal = ((size + 0x7FFFF + ((size >> 20) & 1)) >> 20) - (120 << 3)
    small = to_integer(size.to(tl.float32, bitcast=True) * 512.0).to(tl.uint32)  # in units of 2⁻⁹
    code = tl.where(size < 0x3C800000, small, normal)  # 2⁻⁶
    return (code | ((bits >> 24) & 0x80)).to(tl.uint8)


@triton.jit
def from_fp8(code):
    """Bits of a float8_e4m3fn that is a number, uint8, to float32."""
    wide = code.to(tl.uint32)
    size = wide & 0x7F
    normal = ((size << 20) + (120 << 23)).to(tl.float32, bitcast=True)
    value = tl.where(size < 8, size.to(tl.float32) * 0.001953125, normal)
    return tl.where(wide >= 128, -value, value)
