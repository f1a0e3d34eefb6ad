// Projections of many rows: rows of x are the lanes, and weights are broadcast straight from where they are stored.
//
// A panel holds up to 48 rows of x transposed in words of 32 bits (two bfloat16 neighbours or one float32):
// panel[word][row]. A word of a weight's row, broadcast, then meets the same word of 16 rows in one instruction, and
// no weight is ever rearranged. Sums run along the inputs in order, so that they do not depend on the other rows.

#pragma once

#include "results.h"
#include "transpose.h"

constexpr int kPanelVectors = 3;
constexpr int64_t kPanelRows = kPanelVectors * kLanes;
constexpr int kTileOutputs = 8;

template <class T>
constexpr int64_t kWord = 4 / sizeof(T);  // elements of a word

TRIPTYCH_INLINE f32x16 add_words(f32x16 sums, u32x16 a, u32x16 b, bf16) { return dot_bf16(sums, (u16x32)a, (u16x32)b); }
TRIPTYCH_INLINE f32x16 add_words(f32x16 sums, u32x16 a, u32x16 b, float) { return fma((f32x16)a, (f32x16)b, sums); }

template <class T>
int64_t panel_words(int64_t inner) {
    return (inner + kWord<T> - 1) / kWord<T>;
}

inline int64_t panel_vectors(int64_t rows) { return (rows + kLanes - 1) / kLanes; }

// Fills a panel of ⌈rows/16⌉ vectors a word. Lanes beyond the rows repeat the last row, words beyond the inputs are 0.
template <class T>
void pack_panel(const T* x, int64_t rows, int64_t inner, u32x16* panel) {
    const int64_t vectors = panel_vectors(rows), words = panel_words<T>(inner);
    for (int64_t v = 0; v < vectors; ++v)
        for (int64_t word = 0; word < words; word += kLanes) {
            const int64_t first = word * kWord<T>, bytes = std::min<int64_t>(64, (inner - first) * sizeof(T));
            u32x16 block[16];
            for (int64_t lane = 0; lane < kLanes; ++lane) {
                const T* row = x + std::min(v * kLanes + lane, rows - 1) * inner + first;
                block[lane] = bytes == 64 ? load<u32x16>(row) : load_first<u32x16>(row, bytes);
            }
            transpose(block);
            for (int64_t i = 0; i < std::min(kLanes, words - word); ++i) panel[(word + i) * vectors + v] = block[i];
        }
}

// columns[c][v] = row c of the weight times the rows of vector v.
template <class T, int Vectors>
TRIPTYCH_INLINE void panel_tile(const u32x16* panel, const T* const* weight, int64_t inner, f32x16 (*columns)[Vectors]) {
    f32x16 sums[kTileOutputs][Vectors] = {};
    const int64_t whole = inner / kWord<T>;
    for (int64_t word = 0; word < whole; ++word, panel += Vectors) {
        prefetch_beyond(weight[0] + word * (kWord<T> * kTileOutputs));  // the rows of a tile lie behind each other
        u32x16 rows[Vectors];
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v) rows[v] = panel[v];
#pragma GCC unroll 8
        for (int c = 0; c < kTileOutputs; ++c) {
            const u32x16 w = splat_32(weight[c] + word * kWord<T>);
#pragma GCC unroll 8
            for (int v = 0; v < Vectors; ++v) sums[c][v] = add_words(sums[c][v], rows[v], w, T{});
        }
    }
    if (whole * kWord<T> < inner)
#pragma GCC unroll 8
        for (int c = 0; c < kTileOutputs; ++c) {
            uint32_t half = 0;
            std::memcpy(&half, weight[c] + inner - 1, sizeof(T));
#pragma GCC unroll 8
            for (int v = 0; v < Vectors; ++v) sums[c][v] = add_words(sums[c][v], panel[v], u32x16{} + half, T{});
        }
#pragma GCC unroll 8
    for (int c = 0; c < kTileOutputs; ++c)
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v) columns[c][v] = sums[c][v];
}

template <class T, int Vectors>
void panel_group(const u32x16* panel, const T* const* weight, int64_t inner, f32x16* outputs) {
    f32x16 columns[kGroup][Vectors];
    for (int c = 0; c < kGroup; c += kTileOutputs)
        panel_tile<T, Vectors>(panel, weight + c, inner, columns + c);
    for (int v = 0; v < Vectors; ++v) {
        u32x16 block[16];
        for (int c = 0; c < kGroup; ++c) block[c] = (u32x16)columns[c][v];
        transpose(block);
        for (int lane = 0; lane < kLanes; ++lane) outputs[v * kLanes + lane] = (f32x16)block[lane];
    }
}

// outputs[r] = the sixteen products of row r of the panel with the rows of a weight.
template <class T>
void panel_group(const u32x16* panel, int64_t rows, const T* const* weight, int64_t inner, f32x16* outputs) {
    switch (panel_vectors(rows)) {
        case 1: return panel_group<T, 1>(panel, weight, inner, outputs);
        case 2: return panel_group<T, 2>(panel, weight, inner, outputs);
        case 3: return panel_group<T, 3>(panel, weight, inner, outputs);
    }
}
