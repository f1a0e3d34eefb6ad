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

// `weight` gives a register of elements of each of its columns, in turn along the inputs; those that do not fill one with
// `part`. One without has none.
template <class T, int Rows, int Columns, class Tile>
TRIPTYCH_INLINE void dot_tile(const T* x, Tile weight, int64_t inner, f32x16 (*partial)[kGroup]) {
    using E = Elements<T>;
    using Vector = typename E::Vector;
    constexpr int64_t kStep = sizeof(Vector) / sizeof(T);
    f32x16 sums[Rows][Columns] = {};
    const int64_t whole = inner / kStep * kStep;
    for (int64_t i = 0; i < whole; i += kStep) {
        Vector w[Columns];
        weight.whole(i, w);
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) {
            const Vector v = load<Vector>(x + r * inner + i);
#pragma GCC unroll 16
            for (int c = 0; c < Columns; ++c) sums[r][c] = E::add_product(sums[r][c], v, w[c]);
        }
    }
    if constexpr (requires(Vector (&w)[Columns]) { weight.part(whole, whole, w); }) {
        if (whole < inner) {
            const int64_t bytes = (inner - whole) * sizeof(T);
            Vector w[Columns];
            weight.part(whole, bytes, w);
#pragma GCC unroll 16
            for (int r = 0; r < Rows; ++r) {
                const Vector v = load_first<Vector>(x + r * inner + whole, bytes);
#pragma GCC unroll 16
                for (int c = 0; c < Columns; ++c) sums[r][c] = E::add_product(sums[r][c], v, w[c]);
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 16
        for (int c = 0; c < Columns; ++c) partial[r][c] = sums[r][c];
}

// Sixteen rows of a weight as they lie in memory.
template <class T, int64_t Beyond>
struct PlainRows {
    template <int Rows>
    static constexpr int kColumns = Rows == 1 ? 1 : Rows <= 3 ? 8 : Rows <= 6 ? 4 : 2;  // of a tile of so many rows of x

    struct Tile {
        using Vector = typename Elements<T>::Vector;
        const T* const* rows;

        template <int Columns>
        TRIPTYCH_INLINE void whole(int64_t i, Vector (&w)[Columns]) const {
#pragma GCC unroll 16
            for (int c = 0; c < Columns; ++c) {
                prefetch_beyond<Beyond>(rows[c] + i);
                w[c] = load<Vector>(rows[c] + i);
            }
        }

        template <int Columns>
        TRIPTYCH_INLINE void part(int64_t i, int64_t bytes, Vector (&w)[Columns]) const {
#pragma GCC unroll 16
            for (int c = 0; c < Columns; ++c) w[c] = load_first<Vector>(rows[c] + i, bytes);
        }
    };

    template <class, int Rows, int Columns>
    TRIPTYCH_INLINE void dot(const T* x, int first, int64_t inner, f32x16 (*partial)[kGroup]) const {
        dot_tile<T, Rows, Columns>(x, Tile{rows + first}, inner, partial);
    }

    const T* const* rows;
};

// outputs[r] = the sixteen products of row r of x with the rows of a weight.
template <class T, int Rows, class Weight>
void dot_rows(const T* x, const Weight& weight, int64_t inner, f32x16* outputs) {
    constexpr int kColumns = Weight::template kColumns<Rows>;
    f32x16 partial[Rows][kGroup];
    for (int c = 0; c < kGroup; c += kColumns) {
        f32x16(*place)[kGroup] = reinterpret_cast<f32x16(*)[kGroup]>(&partial[0][c]);
        weight.template dot<T, Rows, kColumns>(x, c, inner, place);
    }
    for (int r = 0; r < Rows; ++r) outputs[r] = sums(partial[r]);
}

template <class T, class Weight>
void dot_weight(const T* x, int64_t rows, const Weight& weight, int64_t inner, f32x16* outputs) {
    switch (rows) {
        case 1: return dot_rows<T, 1>(x, weight, inner, outputs);
        case 2: return dot_rows<T, 2>(x, weight, inner, outputs);
        case 3: return dot_rows<T, 3>(x, weight, inner, outputs);
        case 4: return dot_rows<T, 4>(x, weight, inner, outputs);
        case 5: return dot_rows<T, 5>(x, weight, inner, outputs);
        case 6: return dot_rows<T, 6>(x, weight, inner, outputs);
        case 7: return dot_rows<T, 7>(x, weight, inner, outputs);
        case 8: return dot_rows<T, 8>(x, weight, inner, outputs);
    }
}

template <class T, int64_t Beyond = kBeyond>
void dot_group(const T* x, int64_t rows, const T* const* weight, int64_t inner, f32x16* outputs) {
    dot_weight(x, rows, PlainRows<T, Beyond>{weight}, inner, outputs);
}
