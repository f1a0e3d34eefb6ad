// Projections of few rows: dot products along the inputs, where rows and weights both lie contiguous.
//
// A register tile of Rows x Columns sums keeps Columns rows of the weight in flight and reads each weight once. The
// sixteen lanes of a sum are added up for sixteen outputs together.

#pragma once

#include "results.h"
#include "transpose.h"

// One register of elements, and the product of two of them added to sixteen sums.
template <class T>
struct Elements;

template <>
struct Elements<bf16> {
    using Vector = u16x32;
    static TRIPTYCH_INLINE f32x16 add_product(f32x16 sums, Vector a, Vector b) { return dot_bf16(sums, a, b); }
};

template <>
struct Elements<float> {
    using Vector = f32x16;
    static TRIPTYCH_INLINE f32x16 add_product(f32x16 sums, Vector a, Vector b) { return fma(a, b, sums); }
};

constexpr int64_t kDotRows = 8;  // at a time

template <class T, int Rows, int Columns, int64_t Beyond>
TRIPTYCH_INLINE void dot_tile(const T* x, const T* const* weight, int64_t inner, f32x16 (*partial)[kGroup]) {
    using E = Elements<T>;
    using Vector = typename E::Vector;
    constexpr int64_t kStep = sizeof(Vector) / sizeof(T);
    f32x16 sums[Rows][Columns] = {};
    const int64_t whole = inner / kStep * kStep;
    for (int64_t i = 0; i < whole; i += kStep) {
        Vector w[Columns];
#pragma GCC unroll 16
        for (int c = 0; c < Columns; ++c) {
            prefetch_beyond<Beyond>(weight[c] + i);
            w[c] = load<Vector>(weight[c] + i);
        }
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) {
            const Vector v = load<Vector>(x + r * inner + i);
#pragma GCC unroll 16
            for (int c = 0; c < Columns; ++c) sums[r][c] = E::add_product(sums[r][c], v, w[c]);
        }
    }
    if (whole < inner) {
        const int64_t bytes = (inner - whole) * sizeof(T);
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) {
            const Vector v = load_first<Vector>(x + r * inner + whole, bytes);
#pragma GCC unroll 16
            for (int c = 0; c < Columns; ++c)
                sums[r][c] = E::add_product(sums[r][c], v, load_first<Vector>(weight[c] + whole, bytes));
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 16
        for (int c = 0; c < Columns; ++c) partial[r][c] = sums[r][c];
}

// outputs[r] = the sixteen products of row r of x with the rows of a weight.
template <class T, int Rows, int64_t Beyond>
void dot_group(const T* x, const T* const* weight, int64_t inner, f32x16* outputs) {
    constexpr int kColumns = Rows == 1 ? 1 : Rows <= 3 ? 8 : Rows <= 6 ? 4 : 2;
    f32x16 partial[Rows][kGroup];
    for (int c = 0; c < kGroup; c += kColumns) {
        f32x16(*place)[kGroup] = reinterpret_cast<f32x16(*)[kGroup]>(&partial[0][c]);
        dot_tile<T, Rows, kColumns, Beyond>(x, weight + c, inner, place);
    }
    for (int r = 0; r < Rows; ++r) outputs[r] = sums(partial[r]);
}

template <class T, int64_t Beyond = kBeyond>
void dot_group(const T* x, int64_t rows, const T* const* weight, int64_t inner, f32x16* outputs) {
    switch (rows) {
        case 1: return dot_group<T, 1, Beyond>(x, weight, inner, outputs);
        case 2: return dot_group<T, 2, Beyond>(x, weight, inner, outputs);
        case 3: return dot_group<T, 3, Beyond>(x, weight, inner, outputs);
        case 4: return dot_group<T, 4, Beyond>(x, weight, inner, outputs);
        case 5: return dot_group<T, 5, Beyond>(x, weight, inner, outputs);
        case 6: return dot_group<T, 6, Beyond>(x, weight, inner, outputs);
        case 7: return dot_group<T, 7, Beyond>(x, weight, inner, outputs);
        case 8: return dot_group<T, 8, Beyond>(x, weight, inner, outputs);
    }
}
