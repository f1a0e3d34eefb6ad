// ggml's block_q8_0, block_q5_0 and block_q5_1, two blocks at a time: 64 bytes in their order.

#pragma once

#include "gguf_blocks.h"

// 64 bytes with a scale for each half.
struct Pair {
    u8x64 values;
    f32x16 scales, minima;
};

// Activations of two blocks.
struct PairRow {
    int8_t values[64];
    float scales[kLanes];  // of a block, in each of its eight lanes
    union {
        float sums[kLanes];      // scale · Σ q in the first lane of a block
        int32_t starts[kLanes];  // -zero · Σ q likewise
    };
};

// The first number in eight lanes, the second in the others.
TRIPTYCH_INLINE f32x16 halves(float first, float second) {
    return __builtin_shufflevector(splat(first), splat(second), 0, 1, 2, 3, 4, 5, 6, 7, 24, 25, 26, 27, 28, 29, 30, 31);
}

// What the kinds below share; Bits reads the bytes of two blocks.
template <class Bits>
struct InPairs : Bits {
    static constexpr int kBytes = Bits::kHeader + Bits::kPacked, kBlocks = 1, kGroup = 2, kScales = 1;
    static constexpr bool kMinimum = Bits::kZero == 0;
    using Weights = Pair;
    using Row = PairRow;

    // `blocks` of them; what follows counts as zero.
    static TRIPTYCH_INLINE Pair weights(const uint8_t* p, int64_t blocks) {
        const bool both = blocks > 1;
        const f32x16 scales = halves(half_at(p), both ? half_at(p + kBytes) : 0.0f);
        const f32x16 minima = kMinimum ? halves(half_at(p + 2), both ? half_at(p + kBytes + 2) : 0.0f) : f32x16{};
        return {Bits::bytes(p, both ? p + kBytes : nullptr), scales, minima};
    }

    static TRIPTYCH_INLINE f32x16 add_product(f32x16 sums, const Pair& w, const PairRow& x) {
        const i32x16 starts = kMinimum ? i32x16{} : load<i32x16>(x.starts);
        const i32x16 dots = dot_u8i8(starts, w.values, load<i8x64>(x.values));
        sums = fma(to_float(dots), w.scales * load<f32x16>(x.scales), sums);
        return kMinimum ? fma(w.minima, load<f32x16>(x.sums), sums) : sums;
    }

    // Takes the 32 activations of one block in.
    static void put(PairRow& x, int64_t block, const int8_t* values, float scale, int32_t sum) {
        std::memcpy(x.values + 32 * block, values, 32);
        for (int64_t lane = 8 * block; lane < 8 * block + 8; ++lane) {
            x.scales[lane] = scale;
            x.starts[lane] = 0;
        }
        if (kMinimum)
            x.sums[8 * block] = scale * sum;
        else
            x.starts[8 * block] = -Bits::kZero * sum;
    }

    static TRIPTYCH_INLINE void unpack(const Pair& w, uint8_t* bytes) { store(bytes, w.values); }

    static void headers(const uint8_t* block, float* scales, float* minima) {
        *scales = half_at(block);
        if (kMinimum) *minima = half_at(block + 2);
    }

    static void dequantize(const uint8_t* block, float* values) {
        const float scale = half_at(block), minimum = kMinimum ? half_at(block + 2) : 0.0f;
        alignas(64) uint8_t bytes[64];
        store(bytes, Bits::bytes(block, nullptr));
        for (int64_t i = 0; i < kBlock; i += kLanes) {
            const i32x16 plain = to_int(load<u8x16>(bytes + i)) - Bits::kZero;
            store(values + i, kMinimum ? fma(to_float(plain), splat(scale), splat(minimum)) : to_float(plain) * scale);
        }
    }
};

// 32 weights of 8 bits with a scale; with their sign bits flipped the zero is 128.
struct Bits8 {
    static constexpr int kHeader = 2, kPacked = 32;
    static constexpr int32_t kZero = 128;

    static TRIPTYCH_INLINE u8x64 bytes(const uint8_t* first, const uint8_t* second) {
        const u64x4 a = load<u64x4>(first + kHeader), b = second ? load<u64x4>(second + kHeader) : u64x4{};
        return (u8x64)(__builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7) ^ 0x8080808080808080);
    }
};

// 32 weights of 5 bits with a scale, and 16 as the zero (Q5_0) or a minimum (Q5_1). First the fifth bits, 32 in a row;
// then 16 bytes, whose low halves are the first weights.
template <bool HasMinimum>
struct Bits5 {
    static constexpr int kHeader = HasMinimum ? 4 : 2, kPacked = 20;
    static constexpr int32_t kZero = HasMinimum ? 0 : 16;

    static TRIPTYCH_INLINE u8x64 bytes(const uint8_t* first, const uint8_t* second) {
        typedef uint64_t u64x2 __attribute__((vector_size(16)));
        const u64x2 a = load<u64x2>(first + kHeader + 4), b = second ? load<u64x2>(second + kHeader + 4) : u64x2{};
        const u64x4 twice = __builtin_shufflevector(a, a, 0, 1, 0, 1), next = __builtin_shufflevector(b, b, 0, 1, 0, 1);
        const u64x8 all = __builtin_shufflevector(twice, next, 0, 1, 2, 3, 4, 5, 6, 7);
        const u32x16 shifts = {0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0, 4, 4, 4, 4};
        const u8x64 low = (u8x64)(((u32x16)all >> shifts) & 0x0f0f0f0f);
        return low | fifths(load<uint32_t>(first + kHeader), second ? load<uint32_t>(second + kHeader) : 0);
    }

  private:
    // 16 in every byte whose bit is set.
    static TRIPTYCH_INLINE u8x64 fifths(uint64_t first, uint64_t second) {
        const uint64_t bits = first | second << 32;
#if defined(__AVX512BW__)
        return (u8x64)_mm512_maskz_set1_epi8(bits, 16);
#else
        u8x64 values;
        for (int i = 0; i < 64; ++i) values[i] = (bits >> i & 1) << 4;
        return values;
#endif
    }
};

using Q8 = InPairs<Bits8>;
template <bool HasMinimum>
using Q5 = InPairs<Bits5<HasMinimum>>;
