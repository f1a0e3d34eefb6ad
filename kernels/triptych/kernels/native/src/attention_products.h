// The two products of attention, scores and sums of values, for a few query rows and up to kTile tokens.
//
// Keys and values are read in units of 32 bits, as pages.h orders them: a pair of bfloat16 or one float. So both
// products are the same loop over units, in which a unit of a row (of queries, of probabilities) is broadcast and
// multiplied with vectors of 16 units: of 16 tokens for the scores, of 16 dimensions for the values.

#pragma once

#include "pages.h"
#include "simd.h"

constexpr int64_t kTile = 256;
constexpr int64_t kTileColumns = kTile / kLanes;
constexpr float kNothing = -1e30f;  // the largest score of a row that has seen no token yet

#if defined(__AVX512F__)
constexpr int kRows = 6, kColumns = 4;  // accumulators: 24 of 32 registers
#else
constexpr int kRows = 4, kColumns = 1;  // 8 of 16 half as wide
#endif

// What differs between the element types: a multiply-add of units, and the exponential that is accurate enough.
template <class T>
struct Arithmetic;

template <>
struct Arithmetic<bf16> {
    static constexpr float kBase = 1.44269504f;  // log2(e): powers are of 2
    static TRIPTYCH_INLINE f32x16 dot(f32x16 sums, u32x16 a, u32x16 b) {
        return dot_bf16(sums, (u16x32)a, (u16x32)b);
    }
    static TRIPTYCH_INLINE f32x16 power(f32x16 x) { return exp2_for_bf16(x); }
};

template <>
struct Arithmetic<float> {
    static constexpr float kBase = 1.0f;
    static TRIPTYCH_INLINE f32x16 dot(f32x16 sums, u32x16 a, u32x16 b) { return fma((f32x16)a, (f32x16)b, sums); }
    static TRIPTYCH_INLINE f32x16 power(f32x16 x) { return exp(x); }
};

// Up to kTile tokens of one sequence and key head, in columns of 16.
template <class T>
struct Columns {
    int64_t first, stop;            // the first token, in lane 0 of column 0, and one past the last
    const T* keys[kTileColumns];    // [head_dim/p] vectors of 16 units, key_stride units apart
    const T* values[kTileColumns];  // [16/p] rows of head_dim units
    int64_t key_stride, head_dim;
    const T* next[kTileColumns];    // what is read after the values: [16 · head_dim] elements each
};

// Query rows and what is known of their result so far.
template <class T>
struct Rows {
    const T* q;          // [R, head_dim]
    float* sums;         // [R, head_dim], Σ 2^(score − most) · value
    f32x16* totals;      // [R], Σ 2^(score − most), spread over lanes
    float* most;         // [R], largest score so far, or kNothing
    const int64_t* from; // [R], first token that each row sees
    const int64_t* to;   // [R], one past the last
};

// sums[r][c] += Σ over k of unit k of row r of `a` · vector k of b[c]; calls `meanwhile(k)` at every step.
template <class T, int R, int C, class Meanwhile>
TRIPTYCH_INLINE void multiply(
    f32x16 (&sums)[R][C], const T* a, int64_t a_stride, const T* const* b, int64_t b_stride, int64_t units,
    Meanwhile meanwhile
) {
    constexpr int64_t p = kPacked<T>;
    for (int64_t k = 0; k < units; ++k) {
        meanwhile(k);
        u32x16 right[C];
        for (int c = 0; c < C; ++c) right[c] = load<u32x16>(b[c] + k * b_stride * p);
        for (int r = 0; r < R; ++r) {
            const u32x16 left = splat_32(a + r * a_stride + k * p);
            for (int c = 0; c < C; ++c) sums[r][c] = Arithmetic<T>::dot(sums[r][c], left, right[c]);
        }
    }
}

// The pages of a sequence are short runs all over the memory. Asking for the values while the keys are read, and for
// the next keys while the values are, keeps more of it in flight than the hardware's own prefetching does.
TRIPTYCH_INLINE void ask_for(const void* p) { __builtin_prefetch(p, 0, 2); }

// GCC takes a function that only prefetches for one without effect, and drops calls that it has not inlined.
#define TRIPTYCH_KEPT __attribute__((always_inline))

template <class T, int R, int C>
TRIPTYCH_INLINE void score(const Rows<T>& rows, const Columns<T>& columns, int64_t column, float* scores) {
    f32x16 sums[R][C]{};
    multiply<T, R, C>(
        sums, rows.q, columns.head_dim, columns.keys + column, columns.key_stride, columns.head_dim / kPacked<T>,
        [&](int64_t k) TRIPTYCH_KEPT {
            for (int c = 0; c < C; ++c) ask_for(columns.values[column + c] + k * kLanes * kPacked<T>);
        }
    );
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) store(scores + r * kTile + (column + c) * kLanes, sums[r][c]);
}

// Adds the values of the first `tokens` tokens to dimensions dim … dim + 16·C − 1 of the sums.
template <class T, int R, int C>
TRIPTYCH_INLINE void add_values(
    const Rows<T>& rows, const Columns<T>& columns, int64_t tokens, const T* probabilities, const float (&faded)[R],
    int64_t dim
) {
    constexpr int64_t p = kPacked<T>;
    f32x16 sums[R][C];
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c)
            sums[r][c] = load<f32x16>(rows.sums + r * columns.head_dim + dim + c * kLanes) * faded[r];
    for (int64_t token = 0; token < tokens; token += kLanes) {
        const int64_t here = tokens - token < kLanes ? tokens - token : kLanes;
        for (int64_t i = dim; i < dim + C * kLanes; i += p) ask_for(columns.next[token / kLanes] + i * kLanes);
        const T* values[C];
        for (int c = 0; c < C; ++c) values[c] = columns.values[token / kLanes] + (dim + c * kLanes) * p;
        multiply<T, R, C>(sums, probabilities + token, kTile, values, columns.head_dim, here / p, [](int64_t) {});
        if (here % p) {  // of the last pair only the first token exists
            const int64_t k = here / p;
            const T* left = probabilities + token + k * p;
            for (int c = 0; c < C; ++c) {
                const u32x16 first = load<u32x16>(values[c] + k * columns.head_dim * p) & 0xffffu;
                for (int r = 0; r < R; ++r)
                    sums[r][c] = Arithmetic<T>::dot(sums[r][c], splat_32(left + r * kTile), first);
            }
        }
    }
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) store(rows.sums + r * columns.head_dim + dim + c * kLanes, sums[r][c]);
}
