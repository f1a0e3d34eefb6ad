// Rows of bfloat16 activations as the products with GGUF blocks want them: 8 bits with a scale for every block.
//
// Up to kFewRows rows are kept one by one, [row][group of blocks]. More are kept in panels of up to 48, whose rows are
// the lanes: [chunk][block] of { values [8 words][vector][lane][4], scales [vector][lane], sums or starts likewise }.
// Where each half of a block of weights has its scale, a word has the starts of both halves, 16 bits for each and still
// to be multiplied by -zero.

#pragma once

#include "gguf.h"
#include "products.h"
#include "transpose.h"

constexpr int kPanelVectors = kChunkRows / kLanes;

inline int64_t vectors_of(int64_t rows) { return (rows + kLanes - 1) / kLanes; }

// One block of a panel whose rows fill `Vectors` registers.
template <int Vectors>
struct PanelBlock {
    i8x64 values[kWords][Vectors];
    f32x16 scales[Vectors];
    union {
        f32x16 sums[Vectors];
        i32x16 starts[Vectors];
    };
};

constexpr int64_t kPanelBytes = sizeof(PanelBlock<1>);  // of a block and a vector

struct QuantisedBlock {
    float scale;
    int32_t sum;
};

// 32 numbers to the nearest multiples of a 127th of the largest. One that is not finite makes the scale NaN, and so
// every product with the row.
TRIPTYCH_INLINE QuantisedBlock quantise(f32x16 a, f32x16 b, int8_t* values) {
    const i32x16 left = (i32x16)a & 0x7fffffff, right = (i32x16)b & 0x7fffffff;
    const int32_t bits = largest(left > right ? left : right);  // of non-negative floats, in their order
    const float most = load<float>(&bits);
    if (bits >= 0x7f800000) {
        std::memset(values, 0, kBlock);
        return {NAN, 0};
    }
    const float inverse = std::fmin(127.0f / most, 3.4e38f);
    const i32x16 first = round_to_int(a * inverse), second = round_to_int(b * inverse);
    store(values, __builtin_convertvector(first, i8x16));
    store(values + kLanes, __builtin_convertvector(second, i8x16));
    return {most / 127.0f, sum(first + second)};
}

TRIPTYCH_INLINE QuantisedBlock quantise(const bf16* x, int8_t* values) {
    return quantise(load_f32(x), load_f32(x + kLanes), values);
}

// Σ q of the first half of a block in the lower 16 bits, that of the second in the upper.
TRIPTYCH_INLINE int32_t two_sums(const int8_t* values, int32_t sum) {
    int32_t first = 0;
    for (int i = 0; i < kBlock / 2; ++i) first += values[i];
    return (first & 0xffff) | static_cast<int32_t>(static_cast<uint32_t>(sum - first) << 16);
}

template <class Kind>
void quantise_row(const bf16* x, int64_t inputs, typename Kind::Row* out) {
    int8_t values[kBlock];
    const int64_t blocks = inputs / kBlock;
    for (int64_t i = 0; i < blocks; ++i) {
        const QuantisedBlock block = quantise(x + i * kBlock, values);
        Kind::put(out[i / Kind::kGroup], i % Kind::kGroup, values, block.scale, block.sum);
    }
    std::memset(values, 0, kBlock);
    for (int64_t i = blocks; i % Kind::kGroup; ++i) Kind::put(out[i / Kind::kGroup], i % Kind::kGroup, values, 0, 0);
}

// Vector `vector` of a panel of `vectors`; beyond `rows` its lanes repeat the last row.
template <class Kind>
void quantise_vector(const bf16* x, int64_t rows, int64_t inputs, char* panel, int64_t vector, int64_t vectors) {
    const int64_t blocks = inputs / kBlock;
    for (int64_t first = 0; first < blocks; first += 2) {
        alignas(64) int8_t values[kLanes][64];
        float scales[2][kLanes];
        int32_t sums[2][kLanes];
        const int64_t count = std::min<int64_t>(2, blocks - first);
        for (int64_t lane = 0; lane < kLanes; ++lane)
            for (int64_t i = 0; i < count; ++i) {
                const bf16* place = x + std::min(lane, rows - 1) * inputs + (first + i) * kBlock;
                const QuantisedBlock block = quantise(place, values[lane] + i * kBlock);
                scales[i][lane] = block.scale;
                sums[i][lane] = Kind::kScales == 1 ? block.sum : two_sums(values[lane] + i * kBlock, block.sum);
            }
        u32x16 words[16];
        for (int lane = 0; lane < kLanes; ++lane) words[lane] = load<u32x16>(values[lane]);
        transpose(words);
        for (int64_t i = 0; i < count; ++i) {
            char* block = panel + (first + i) * vectors * kPanelBytes;
            for (int64_t w = 0; w < kWords; ++w) store(block + (w * vectors + vector) * 64, words[i * kWords + w]);
            store(block + (kWords * vectors + vector) * 64, load<f32x16>(scales[i]));
            const i32x16 sum = load<i32x16>(sums[i]);
            const i32x16 starts = Kind::kScales == 1 ? sum * -Kind::kZero : sum;
            const i32x16 kept = Kind::kMinimum ? (i32x16)(load<f32x16>(scales[i]) * to_float(sum)) : starts;
            store(block + ((kWords + 1) * vectors + vector) * 64, kept);
        }
    }
}
