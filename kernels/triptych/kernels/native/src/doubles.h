// Eight lanes of float64, for sums that many small numbers go into.

#pragma once

#include "simd.h"

typedef int32_t i32x8 __attribute__((vector_size(32)));
typedef float f32x8 __attribute__((vector_size(32)));
typedef double f64x8 __attribute__((vector_size(64)));
typedef int64_t i64x8 __attribute__((vector_size(64)));

struct Doubles {  // the lanes of an f32x16
    f64x8 low, high;
};

TRIPTYCH_INLINE f64x8 splat(double value) { return f64x8{} + value; }

TRIPTYCH_INLINE Doubles widen(f32x16 values) {
    f32x8 halves[2];
    std::memcpy(halves, &values, sizeof(values));
    return {__builtin_convertvector(halves[0], f64x8), __builtin_convertvector(halves[1], f64x8)};
}

// Zero in the lanes that a comparison refuses, whatever was there.
TRIPTYCH_INLINE Doubles masked(i32x16 mask, Doubles values) {
    i32x8 halves[2];
    std::memcpy(halves, &mask, sizeof(mask));
    return {(f64x8)((i64x8)values.low & __builtin_convertvector(halves[0], i64x8)),
            (f64x8)((i64x8)values.high & __builtin_convertvector(halves[1], i64x8))};
}

TRIPTYCH_INLINE double sum(f64x8 v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }

// e^x of x ≤ 0 to one unit in the last place; 0 below −708, where the result would lose precision, and for −inf.
TRIPTYCH_INLINE f64x8 exp_negative(f64x8 x) {
    const f64x8 clamped = x > splat(-708.0) ? x : splat(-708.0);
    const f64x8 magic = splat(6755399441055744.0);  // 1.5 · 2^52: adding it rounds to an integer
    const f64x8 shifted = clamped * 1.4426950408889634 + magic;
    const f64x8 power = shifted - magic;
    const f64x8 r = (clamped - power * 6.93147180369123816490e-01) - power * 1.90821492927058770002e-10;
    f64x8 y = splat(1.0 / 6227020800);  // Taylor's series to r^13, for |r| ≤ ln(2) / 2
    for (const double factor : {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
                                1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1.0, 1.0})
        y = y * r + factor;
    const f64x8 scaled = (f64x8)((i64x8)y + ((i64x8)shifted << 52));
    return x < splat(-708.0) ? f64x8{} : scaled;
}

// Bit i is lane i of a comparison.
TRIPTYCH_INLINE uint32_t bits(i32x16 mask) {
#if defined(__AVX512DQ__)
    return _mm512_movepi32_mask((__m512i)mask);
#elif defined(__SSE2__)
    __m128 quarters[4];
    std::memcpy(quarters, &mask, sizeof(mask));
    const auto at = [&](int i) { return static_cast<uint32_t>(_mm_movemask_ps(quarters[i])) << (4 * i); };
    return at(0) | at(1) | at(2) | at(3);
#else
    uint32_t result = 0;
    for (int i = 0; i < kLanes; ++i) result |= (mask[i] & 1u) << i;
    return result;
#endif
}
