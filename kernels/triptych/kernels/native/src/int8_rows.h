// Rows quantised for int8 weights packed [outputs / 16][inputs / 4][16][4], with a scale for every output; and few such
// rows times sixteen outputs.
//
// Every 64 numbers of a row of x become unsigned bytes: x ≈ scale · (u - zero), which spans from the least to the
// largest of them, 0 always among them. So the product is the sum of scale · (Σ u·w - zero · Σ w) over these blocks,
// times the output's scale. Each Σ w is made anew, as one more dot product beside those with all the rows: reading it
// would cost few rows more. The blocks are added in their order, so that a row has the same products in any company.

#pragma once

#include "results.h"

constexpr int64_t kWordInputs = 4;
constexpr int64_t kBlock = 64;  // inputs that share a scale and a zero point
constexpr int64_t kBlockWords = kBlock / kWordInputs;

#if defined(__AVX512F__)
constexpr int kDotRows = 8;  // that registers hold
#else
constexpr int kDotRows = 1;
#endif

inline int64_t words_of(int64_t inputs) { return (inputs + kWordInputs - 1) / kWordInputs; }
inline int64_t blocks_of(int64_t inputs) { return (inputs + kBlock - 1) / kBlock; }

// A block of one of few rows, which are [row][block].
struct RowBlock {
    uint8_t values[kBlock];
    float scale;
    int32_t zero;
};

template <class T>
f32x16 load_some(const T* p, int64_t count) {
    if (count >= kLanes) return load_f32(p);
    T values[kLanes] = {};
    if (count > 0) std::memcpy(values, p, count * sizeof(T));
    return load_f32(values);
}

// `count` numbers, and zeros beyond them. One that is not finite makes the scale NaN, and so every product with the row.
template <class T>
void quantise(const T* x, int64_t count, RowBlock& out) {
    constexpr int kParts = kBlock / kLanes;
    f32x16 values[kParts], high{}, low{};
    i32x16 bits{};
    for (int i = 0; i < kParts; ++i) {
        values[i] = load_some(x + i * kLanes, count - i * kLanes);
        high = max(values[i], high);
        low = min(values[i], low);
        const i32x16 size = (i32x16)values[i] & 0x7fffffff;
        bits = size > bits ? size : bits;
    }
    if (largest(bits) >= 0x7f800000) {
        out = {{}, NAN, 0};
        return;
    }
    const float least = -largest(-low);
    out.scale = largest(high) / 255.0f - least / 255.0f;
    const float inverse = out.scale > 0 ? std::fmin(1.0f / out.scale, 3.4e38f) : 0;
    out.zero = static_cast<int32_t>(clamp(std::lrint(-least * inverse), 0, 255));
    for (int i = 0; i < kParts; ++i) {
        const i32x16 shifted = round_to_int(values[i] * inverse) + out.zero;
        const i32x16 floored = shifted > 0 ? shifted : i32x16{};
        store(out.values + i * kLanes, __builtin_convertvector(floored < 255 ? floored : splat(255), u8x16));
    }
}

// A whole row of x, [block].
template <class T>
void quantise_row(const T* x, int64_t inputs, RowBlock* out) {
    for (int64_t i = 0; i < inputs; i += kBlock) quantise(x + i, inputs - i, out[i / kBlock]);
}

struct Group {
    const int8_t* words;  // [words][16][4]
    f32x16 scales;
};

inline u8x64 ones() { return u8x64{} + 1; }

// Calls take(block, its first word, words), of which the last block may have fewer.
template <class Take>
TRIPTYCH_INLINE void each_block(const Group& weight, int64_t words, Take&& take) {
    for (int64_t first = 0; first < words; first += kBlockWords)
        take(first / kBlockWords, weight.words + first * 64, std::min(kBlockWords, words - first));
}

template <int Rows>
void dot_rows(const RowBlock* x, const Group& weight, int64_t words, f32x16* outputs) {
    const int64_t blocks = (words + kBlockWords - 1) / kBlockWords;
    f32x16 products[Rows] = {};
    each_block(weight, words, [&](int64_t block, const int8_t* place, int64_t count) __attribute__((always_inline)) {
        i32x16 dots[Rows] = {}, sums{};
#pragma GCC unroll 4
        for (int64_t word = 0; word < count; ++word) {
            __builtin_prefetch(place + word * 64 + 2048);
            const i8x64 w = load<i8x64>(place + word * 64);
            sums = dot_u8i8(sums, ones(), w);
#pragma GCC unroll 8
            for (int r = 0; r < Rows; ++r)
                dots[r] = dot_u8i8(dots[r], (u8x64)splat_32(x[r * blocks + block].values + word * kWordInputs), w);
        }
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) {
            const RowBlock& row = x[r * blocks + block];
            products[r] = fma(to_float(dots[r] - sums * row.zero), splat(row.scale), products[r]);
        }
    });
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) outputs[r] = products[r] * weight.scales;
}

template <int Most>
void dot_rows(const RowBlock* x, int64_t rows, const Group& weight, int64_t words, f32x16* outputs) {
    if constexpr (Most > 1)
        if (rows < Most) return dot_rows<Most - 1>(x, rows, weight, words, outputs);
    dot_rows<Most>(x, weight, words, outputs);
}
