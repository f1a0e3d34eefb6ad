// Sixteen lanes on every CPU: the vocabulary of all kernels.
//
// The vectors are the compiler's own (GCC and Clang vector extensions), so that one source compiles to AVX-512
// registers, to pairs of AVX2 registers, or to plain code. Intrinsics stand only where the compiler does not find the
// instruction: bfloat16 and 8-bit dot products, float16, rounding to bfloat16.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define TRIPTYCH_INLINE inline __attribute__((always_inline))

using bf16 = uint16_t;  // the upper half of a float
using f16 = uint16_t;   // IEEE binary16

constexpr int64_t kLanes = 16;

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x32 __attribute__((vector_size(64)));  // 32 bfloat16, or 16 pairs
typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef int16_t i16x16 __attribute__((vector_size(32)));
typedef uint8_t u8x64 __attribute__((vector_size(64)));
typedef int8_t i8x64 __attribute__((vector_size(64)));
typedef int8_t i8x16 __attribute__((vector_size(16)));
typedef uint8_t u8x16 __attribute__((vector_size(16)));

template <class V>
TRIPTYCH_INLINE V load(const void* p) {
    V v;
    std::memcpy(&v, p, sizeof(V));
    return v;
}

template <class V>
TRIPTYCH_INLINE void store(void* p, V v) {
    std::memcpy(p, &v, sizeof(V));
}

// The first bytes of a vector, zeros behind them; nothing beyond is read.
template <class V>
TRIPTYCH_INLINE V load_first(const void* p, int64_t bytes) {
#if defined(__AVX512BW__)
    static_assert(sizeof(V) == 64);
    return (V)_mm512_maskz_loadu_epi8(bytes >= 64 ? ~0ull : (1ull << bytes) - 1, p);
#else
    V v{};
    std::memcpy(&v, p, bytes);
    return v;
#endif
}

TRIPTYCH_INLINE f32x16 splat(float value) { return f32x16{} + value; }
TRIPTYCH_INLINE i32x16 splat(int32_t value) { return i32x16{} + value; }

// The same 32 bits in every lane: two bfloat16 neighbours, or four bytes, of a row.
TRIPTYCH_INLINE u32x16 splat_32(const void* p) {
    uint32_t value;
    std::memcpy(&value, p, 4);
    return u32x16{} + value;
}

TRIPTYCH_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { return a * b + c; }  // contracted to one instruction

TRIPTYCH_INLINE f32x16 max(f32x16 a, f32x16 b) { return a > b ? a : b; }
TRIPTYCH_INLINE f32x16 min(f32x16 a, f32x16 b) { return a < b ? a : b; }

TRIPTYCH_INLINE float sum(f32x16 v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#else
    for (int width = 8; width; width /= 2)
        for (int i = 0; i < width; ++i) v[i] += v[i + width];
    return v[0];
#endif
}

TRIPTYCH_INLINE float largest(f32x16 v) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)v);
#else
    for (int width = 8; width; width /= 2)
        for (int i = 0; i < width; ++i) v[i] = v[i] > v[i + width] ? v[i] : v[i + width];
    return v[0];
#endif
}

TRIPTYCH_INLINE int32_t sum(i32x16 v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_epi32((__m512i)v);
#else
    for (int width = 8; width; width /= 2)
        for (int i = 0; i < width; ++i) v[i] += v[i + width];
    return v[0];
#endif
}

TRIPTYCH_INLINE int32_t largest(i32x16 v) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_epi32((__m512i)v);
#else
    for (int width = 8; width; width /= 2)
        for (int i = 0; i < width; ++i) v[i] = v[i] > v[i + width] ? v[i] : v[i + width];
    return v[0];
#endif
}

TRIPTYCH_INLINE f32x16 to_float(i32x16 values) { return __builtin_convertvector(values, f32x16); }

// Twice as wide at each step: over two steps at once the compiler goes one by one.
TRIPTYCH_INLINE i32x16 to_int(u8x16 values) {
    return __builtin_convertvector(__builtin_convertvector(values, u16x16), i32x16);
}
TRIPTYCH_INLINE i32x16 to_int(i8x16 values) {
    return __builtin_convertvector(__builtin_convertvector(values, i16x16), i32x16);
}
TRIPTYCH_INLINE f32x16 to_float(u8x16 values) { return to_float(to_int(values)); }
TRIPTYCH_INLINE f32x16 to_float(i8x16 values) { return to_float(to_int(values)); }

// ---- bfloat16 ----

TRIPTYCH_INLINE float to_float(bf16 value) {
    const uint32_t bits = static_cast<uint32_t>(value) << 16;
    float result;
    std::memcpy(&result, &bits, 4);
    return result;
}

TRIPTYCH_INLINE bf16 to_bf16(float value) {  // to nearest, ties to even; NaN stays NaN
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;
    return static_cast<bf16>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

TRIPTYCH_INLINE f32x16 widen(u16x16 values) {
    return (f32x16)(__builtin_convertvector(values, u32x16) << 16);
}

TRIPTYCH_INLINE u16x16 narrow(f32x16 values) {
#if defined(__AVX512BF16__)
    return (u16x16)_mm512_cvtneps_pbh((__m512)values);
#else
    const u32x16 bits = (u32x16)values;
    const u32x16 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const u32x16 nan = (u32x16)((bits & 0x7fffffff) > 0x7f800000);
    return __builtin_convertvector((nan & 0x7fc0) | (~nan & rounded), u16x16);
#endif
}

// One type of element of rows in memory, bfloat16 or float32, seen as float32 lanes.
TRIPTYCH_INLINE f32x16 load_f32(const float* p) { return load<f32x16>(p); }
TRIPTYCH_INLINE f32x16 load_f32(const bf16* p) { return widen(load<u16x16>(p)); }
TRIPTYCH_INLINE void store_f32(float* p, f32x16 v) { store(p, v); }
TRIPTYCH_INLINE void store_f32(bf16* p, f32x16 v) { store(p, narrow(v)); }
TRIPTYCH_INLINE float load_scalar(const float* p) { return *p; }
TRIPTYCH_INLINE float load_scalar(const bf16* p) { return to_float(*p); }
TRIPTYCH_INLINE void store_scalar(float* p, float v) { *p = v; }
TRIPTYCH_INLINE void store_scalar(bf16* p, float v) { *p = to_bf16(v); }

// sums[i] += a[2i]·b[2i] + a[2i+1]·b[2i+1]
TRIPTYCH_INLINE f32x16 dot_bf16(f32x16 sums, u16x32 a, u16x32 b) {
#if defined(__AVX512BF16__)
    return (f32x16)_mm512_dpbf16_ps((__m512)sums, (__m512bh)a, (__m512bh)b);
#else
    const u32x16 left = (u32x16)a, right = (u32x16)b;
    sums = fma((f32x16)(left << 16), (f32x16)(right << 16), sums);
    return fma((f32x16)(left & 0xffff0000u), (f32x16)(right & 0xffff0000u), sums);
#endif
}

// ---- 8 bits ----

// sums[i] += a[4i]·b[4i] + … + a[4i+3]·b[4i+3], exact
TRIPTYCH_INLINE i32x16 dot_u8i8(i32x16 sums, u8x64 a, i8x64 b) {
#if defined(__AVX512VNNI__)
    return (i32x16)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)a, (__m512i)b);
#else
    // Through 32-bit lanes: a 16-bit sum of two products may overflow, as maddubs would.
    const u32x16 left = (u32x16)a;
    const i32x16 right = (i32x16)b;
    for (int byte = 0; byte < 4; ++byte) {
        const i32x16 x = (i32x16)((left >> (8 * byte)) & 0xff);
        const i32x16 y = (right << (24 - 8 * byte)) >> 24;
        sums += x * y;
    }
    return sums;
#endif
}

// ---- float16 ----

TRIPTYCH_INLINE float half_to_float(f16 value) {
#if defined(__F16C__) || defined(__AVX512F__)
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(value)));
#else
    const uint32_t sign = static_cast<uint32_t>(value & 0x8000) << 16, rest = value & 0x7fff;
    uint32_t bits;
    if (rest >= 0x7c00) {
        bits = sign | 0x7f800000 | (rest & 0x3ff) << 13;
    } else if (rest >= 0x400) {
        bits = sign | ((rest << 13) + 0x38000000);
    } else {  // below the normal numbers: rest · 2^-24
        const float tiny = static_cast<float>(rest) * 0x1p-24f;
        std::memcpy(&bits, &tiny, 4);
        bits |= sign;
    }
    float result;
    std::memcpy(&result, &bits, 4);
    return result;
#endif
}

TRIPTYCH_INLINE f32x16 halves_to_float(u16x16 values) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_cvtph_ps((__m256i)values);
#else
    f32x16 result;
    for (int i = 0; i < kLanes; ++i) result[i] = half_to_float(values[i]);
    return result;
#endif
}

// ---- functions ----

// To the nearest integer, ties to even; |x| < 2^22. Its argument is rounded first, also where it is a product.
TRIPTYCH_INLINE i32x16 round_to_int(f32x16 x) {
#if defined(__AVX512F__)
    return (i32x16)_mm512_cvtps_epi32((__m512)x);
#elif defined(__AVX2__)
    i32x16 result;
    for (int half = 0; half < 2; ++half) {
        const __m256i eight = _mm256_cvtps_epi32(load<__m256>(reinterpret_cast<const char*>(&x) + 32 * half));
        store(reinterpret_cast<char*>(&result) + 32 * half, eight);
    }
    return result;
#else
    return (i32x16)(x + 12582912.0f) - (int32_t)0x4b400000;
#endif
}

// e^x to 2 units in the last place (Cephes' polynomial); 0 below −87.3, +inf above 88.7; NaN stays NaN.
TRIPTYCH_INLINE f32x16 exp(f32x16 x) {
    const f32x16 clamped = max(min(x, splat(88.7f)), splat(-87.3f));
    const f32x16 magic = splat(12582912.0f);  // 1.5 · 2^23: adding it rounds to an integer
    const f32x16 shifted = fma(clamped, splat(1.44269504088896341f), magic);
    const f32x16 power = shifted - magic;
    f32x16 r = fma(power, splat(-0.693359375f), clamped);
    r = fma(power, splat(2.12194440e-4f), r);
    f32x16 y = splat(1.9875691500e-4f);
    y = fma(y, r, splat(1.3981999507e-3f));
    y = fma(y, r, splat(8.3334519073e-3f));
    y = fma(y, r, splat(4.1665795894e-2f));
    y = fma(y, r, splat(1.6666665459e-1f));
    y = fma(y, r, splat(5.0000001201e-1f));
    y = fma(y, r * r, r) + 1.0f;
    const i32x16 exponent = ((i32x16)shifted - (int32_t)0x4b400000) << 23;
    const f32x16 scaled = (f32x16)((i32x16)y + exponent);
    return x < splat(-87.3f) ? f32x16{} : (x <= splat(88.7f) ? scaled : x + INFINITY);
}

// 2^x for x <= 0 to 1e-4 of the result, a 20th of what rounding it to bfloat16 adds; exact for whole x, 0 for −inf;
// NaN stays NaN.
TRIPTYCH_INLINE f32x16 exp2_for_bf16(f32x16 x) {
#if defined(__AVX512DQ__)
    const f32x16 r = (f32x16)_mm512_reduce_ps((__m512)x, 0x09);  // x − floor(x)
#else
    x = max(splat(-126.0f), x);  // in this order NaN comes through
    const f32x16 magic = splat(12582912.0f);  // 1.5 · 2^23: adding it rounds to an integer
    const f32x16 shifted = (x - 0.5f) + magic;
    const f32x16 r = x - (shifted - magic);
#endif
    f32x16 y = fma(splat(7.8268027e-2f), r, splat(2.26307595e-1f));
    y = fma(y, r, splat(6.95424378e-1f));
    y = fma(y, r, splat(1.0f));
#if defined(__AVX512DQ__)
    return (f32x16)_mm512_scalef_ps((__m512)y, (__m512)x);  // y · 2^floor(x)
#else
    const f32x16 scaled = (f32x16)((i32x16)y + (((i32x16)shifted - (int32_t)0x4b400000) << 23));
    return x > splat(-126.0f) ? scaled : x + 126.0f;  // 0, or NaN
#endif
}

// Cephes' tanhf: a polynomial near 0, where the exponential form would cancel.
TRIPTYCH_INLINE f32x16 tanh(f32x16 x) {
    const f32x16 size = x < f32x16{} ? -x : x;
    const f32x16 square = x * x;
    f32x16 y = fma(splat(-5.70498872745e-3f), square, splat(2.06390887954e-2f));
    y = fma(y, square, splat(-5.37397155531e-2f));
    y = fma(y, square, splat(1.33314422036e-1f));
    y = fma(y, square, splat(-3.33332819422e-1f));
    const f32x16 near = fma(y * square, x, x);
    const f32x16 far = 1.0f - 2.0f / (exp(size + size) + 1.0f);
    return size < splat(0.625f) ? near : (x < f32x16{} ? -far : far);
}
