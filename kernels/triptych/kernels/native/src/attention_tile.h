// One tile of attention: scores of some query rows with up to kTile tokens, their softmax, their sum of values.
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
    static TRIPTYCH_INLINE f32x16 dot(f32x16 sums, u32x16 a, u32x16 b) { return dot_bf16(sums, (u16x32)a, (u16x32)b); }
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
    int64_t next;                   // elements from these keys to those of the head that is read next; 0: none
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

struct Scoring {
    float scale;    // of a score in the exponent of Arithmetic<T>::power, after the cap if there is one
    float softcap;  // 0: none
    float inner;    // scale / softcap, of the argument of tanh
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

template <int R>
void cap(float* scores, int64_t count, const Scoring& scoring) {
    for (int r = 0; r < R; ++r)
        for (int64_t c = 0; c < count; ++c) {
            float* place = scores + r * kTile + c * kLanes;
            store(place, tanh(load<f32x16>(place) * scoring.inner) * scoring.softcap);
        }
}

template <class T, int R>
void hide(const Rows<T>& rows, const Columns<T>& columns, int64_t count, float* scores) {
    constexpr i32x16 lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (int r = 0; r < R; ++r) {
        const i32x16 from = splat(static_cast<int32_t>(rows.from[r] - columns.first));
        const i32x16 to = splat(static_cast<int32_t>(rows.to[r] - columns.first));
        for (int64_t c = 0; c < count; ++c) {
            float* place = scores + r * kTile + c * kLanes;
            const i32x16 token = lanes + static_cast<int32_t>(c * kLanes);
            store(place, (token >= from) & (token < to) ? load<f32x16>(place) : splat(-INFINITY));
        }
    }
}

// Scores become probabilities, not yet divided by their total; `faded` gets what earlier sums are multiplied by.
template <class T, int R>
TRIPTYCH_INLINE void soften(
    const Rows<T>& rows, int64_t count, const float* scores, T* probabilities, float scale, float (&faded)[R]
) {
    for (int r = 0; r < R; ++r) {
        const float* row = scores + r * kTile;
        f32x16 top = splat(rows.most[r]);
        for (int64_t c = 0; c < count; ++c) top = max(top, load<f32x16>(row + c * kLanes));
        const float most = largest(top);
        const f32x16 shift = splat(-most * scale);
        f32x16 total{};
        for (int64_t c = 0; c < count; ++c) {
            const f32x16 power = Arithmetic<T>::power(fma(load<f32x16>(row + c * kLanes), splat(scale), shift));
            store_f32(probabilities + r * kTile + c * kLanes, power);
            total += power;
        }
        faded[r] = Arithmetic<T>::power(splat((rows.most[r] - most) * scale))[0];
        rows.totals[r] = rows.totals[r] * faded[r] + total;
        rows.most[r] = most;
    }
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
        if (columns.next)
            for (int64_t i = dim; i < dim + C * kLanes; i += p)
                ask_for(columns.keys[token / kLanes] + columns.next + i * kLanes);
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

// Takes a tile's tokens into the result of R rows.
template <class T, int R>
void attend_tile(const Rows<T>& rows, const Columns<T>& columns, const Scoring& scoring, char* scratch) {
    float* scores = reinterpret_cast<float*>(scratch);                // [R, kTile]
    T* probabilities = reinterpret_cast<T*>(scores + kRows * kTile);  // [R, kTile]
    // Rows rise with their tokens. What lies where there is no token is no number: no value is read, a key is hidden.
    const int64_t tokens = (rows.to[R - 1] < columns.stop ? rows.to[R - 1] : columns.stop) - columns.first;
    if (tokens <= 0 || rows.from[0] >= columns.stop) return;
    const int64_t count = (tokens + kLanes - 1) / kLanes;
    int64_t column = 0;
    for (; column + kColumns <= count; column += kColumns) score<T, R, kColumns>(rows, columns, column, scores);
    if constexpr (kColumns > 2)
        for (; column + 2 <= count; column += 2) score<T, R, 2>(rows, columns, column, scores);
    for (; column < count; ++column) score<T, R, 1>(rows, columns, column, scores);
    if (scoring.softcap != 0) cap<R>(scores, count, scoring);
    if (rows.from[R - 1] > columns.first || rows.to[0] < columns.first + count * kLanes)
        hide<T, R>(rows, columns, count, scores);
    float faded[R];
    soften<T, R>(rows, count, scores, probabilities, scoring.scale, faded);
    int64_t dim = 0;
    for (; dim + kColumns * kLanes <= columns.head_dim; dim += kColumns * kLanes)
        add_values<T, R, kColumns>(rows, columns, tokens, probabilities, faded, dim);
    if constexpr (kColumns > 2)
        for (; dim + 2 * kLanes <= columns.head_dim; dim += 2 * kLanes)
            add_values<T, R, 2>(rows, columns, tokens, probabilities, faded, dim);
    for (; dim < columns.head_dim; dim += kLanes)
        add_values<T, R, 1>(rows, columns, tokens, probabilities, faded, dim);
}
