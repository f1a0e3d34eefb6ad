// Few rows, quantised as gguf_rows.h says, times sixteen rows of a weight in GGUF blocks. The sixteen lanes are inputs of
// one output, so that a row has the same products in any company.

#pragma once

#include "gguf_rows.h"

#if defined(__AVX512F__)
constexpr int kDotRows = 8, kTileSums = 12;  // that registers hold
#else
constexpr int kDotRows = 1, kTileSums = 2;
#endif

constexpr int64_t kAhead = 4096;  // bytes of weights that few rows ask for in advance

template <class Kind>
int64_t row_groups(int64_t inputs) {
    return (inputs / kBlock + Kind::kGroup - 1) / Kind::kGroup;
}

// partial[r][c] = lanes whose sum is the product of row r of x with row c of the weight.
template <class Kind, int Rows, int Columns>
TRIPTYCH_INLINE void dot_tile(const typename Kind::Row* x, const uint8_t* const* weight, int64_t blocks,
                              f32x16 (*partial)[kGroup]) {
    const int64_t whole = blocks / Kind::kGroup, groups = (blocks + Kind::kGroup - 1) / Kind::kGroup;
    f32x16 sums[Rows][Columns] = {};
    const auto add = [&](int64_t g, int64_t count) __attribute__((always_inline)) {
#pragma GCC unroll 8
        for (int c = 0; c < Columns; ++c) {
            constexpr int64_t kGroupBytes = packed_bytes<Kind>(Kind::kGroup);
            const uint8_t* place = weight[c] + g * kGroupBytes;
            for (int line = 0; line <= kGroupBytes; line += 64) __builtin_prefetch(place + kAhead + line);
            const auto w = Kind::weights(place, count);
#pragma GCC unroll 8
            for (int r = 0; r < Rows; ++r) sums[r][c] = Kind::add_product(sums[r][c], w, x[r * groups + g]);
        }
    };
    for (int64_t g = 0; g < whole; ++g) add(g, Kind::kGroup);
    if (whole < groups) add(whole, blocks % Kind::kGroup);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
        for (int c = 0; c < Columns; ++c) partial[r][c] = sums[r][c];
}

template <class Kind, int Rows>
void dot_group(const typename Kind::Row* x, const uint8_t* const* weight, int64_t blocks, f32x16* outputs) {
    constexpr int kColumns = kTileSums < 4 ? 1 : Rows <= 4 ? 4 : 2;
    f32x16 partial[Rows][kGroup];
    for (int c = 0; c < kGroup; c += kColumns)
        dot_tile<Kind, Rows, kColumns>(x, weight + c, blocks, reinterpret_cast<f32x16(*)[kGroup]>(&partial[0][c]));
    for (int r = 0; r < Rows; ++r) outputs[r] = sums(partial[r]);
}

template <class Kind, int Most>
void dot_rows(const typename Kind::Row* x, int64_t rows, const uint8_t* const* weight, int64_t blocks, f32x16* outputs) {
    if constexpr (Most > 1)
        if (rows < Most) return dot_rows<Kind, Most - 1>(x, rows, weight, blocks, outputs);
    dot_group<Kind, Most>(x, weight, blocks, outputs);
}
