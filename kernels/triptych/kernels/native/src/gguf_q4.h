// ggml's block_q4_0 and block_q4_1, four blocks at a time.

#pragma once

#include "gguf_blocks.h"

// Half numbers `Stride` bytes apart from p + Offset on, each in 16 / Count lanes; zero where `blocks` are over.
template <int Count, int Stride, int Offset>
TRIPTYCH_INLINE f32x16 scales_of([[maybe_unused]] const uint8_t* p, u8x64 start, [[maybe_unused]] int64_t blocks) {
#if defined(__AVX512BW__)
    u16x32 index{};
    for (int i = 0; i < kLanes; ++i) index[i] = (i * Count / kLanes * Stride + Offset) / 2;
    const __m512i spread = _mm512_permutexvar_epi16((__m512i)index, (__m512i)start);
    return halves_to_float((u16x16)_mm512_castsi512_si256(spread));
#else
    f32x16 values{};
    for (int block = 0; block < Count && block < blocks; ++block)
        for (int lane = 0; lane < kLanes / Count; ++lane)
            values[block * kLanes / Count + lane] = half_to_float(load<f16>(p + block * Stride + Offset));
    return values;
#endif
}

// 32 weights of 4 bits with a scale, and 8 as the zero (Q4_0) or a minimum (Q4_1). The low halves of the 16 bytes are
// the first weights. Four blocks are taken at a time.
template <bool HasMinimum>
struct Q4 {
    static constexpr int kHeader = HasMinimum ? 4 : 2, kBytes = kHeader + 16, kBlocks = 1, kGroup = 4, kScales = 1;
    static constexpr bool kMinimum = HasMinimum;
    static constexpr int32_t kZero = HasMinimum ? 0 : 8;

    struct Weights {
        u8x64 low, high;
        f32x16 scales, minima;
    };

    // Activations of four blocks.
    struct Row {
        int8_t low[64], high[64];
        float scales[kLanes];  // of a block, in each of its four lanes
        union {
            float sums[kLanes];      // scale · Σ q in the first lane of a block
            int32_t starts[kLanes];  // -zero · Σ q likewise
        };
    };

    // `blocks` of them; what follows counts as zero.
    static TRIPTYCH_INLINE Weights weights(const uint8_t* p, int64_t blocks) {
        const u8x64 start = load_first<u8x64>(p, blocks * kBytes < 64 ? blocks * kBytes : 64);
        const u32x16 packed = nibbles(p, start, blocks);
        return {(u8x64)(packed & 0x0f0f0f0f), (u8x64)((packed >> 4) & 0x0f0f0f0f),
                scales_of<kGroup, kBytes, 0>(p, start, blocks),
                HasMinimum ? scales_of<kGroup, kBytes, 2>(p, start, blocks) : f32x16{}};
    }

    static TRIPTYCH_INLINE f32x16 add_product(f32x16 sums, const Weights& w, const Row& x) {
        i32x16 dots = HasMinimum ? i32x16{} : load<i32x16>(x.starts);
        dots = dot_u8i8(dots, w.low, load<i8x64>(x.low));
        dots = dot_u8i8(dots, w.high, load<i8x64>(x.high));
        sums = fma(to_float(dots), w.scales * load<f32x16>(x.scales), sums);
        return HasMinimum ? fma(w.minima, load<f32x16>(x.sums), sums) : sums;
    }

    // Takes the 32 activations of one block in.
    static void put(Row& x, int64_t block, const int8_t* values, float scale, int32_t sum) {
        std::memcpy(x.low + 16 * block, values, 16);
        std::memcpy(x.high + 16 * block, values + 16, 16);
        for (int64_t lane = 4 * block; lane < 4 * block + 4; ++lane) {
            x.scales[lane] = scale;
            x.starts[lane] = 0;
        }
        if (HasMinimum)
            x.sums[4 * block] = scale * sum;
        else
            x.starts[4 * block] = -kZero * sum;
    }

    // The unsigned bytes of a group of blocks, in their order.
    static TRIPTYCH_INLINE void unpack(const Weights& w, uint8_t* bytes) {
        const u64x8 low = (u64x8)w.low, high = (u64x8)w.high;
        store(bytes, __builtin_shufflevector(low, high, 0, 1, 8, 9, 2, 3, 10, 11));
        store(bytes + 64, __builtin_shufflevector(low, high, 4, 5, 12, 13, 6, 7, 14, 15));
    }

    static void headers(const uint8_t* block, float* scales, float* minima) {
        *scales = half_at(block);
        if (HasMinimum) *minima = half_at(block + 2);
    }

    static void dequantize(const uint8_t* block, float* values) {
        const float scale = half_at(block);
        const float minimum = HasMinimum ? half_at(block + 2) : -8 * scale;
        const u8x16 both = load<u8x16>(block + kHeader);
        store(values, fma(to_float(both & 15), splat(scale), splat(minimum)));
        store(values + 16, fma(to_float(both >> 4), splat(scale), splat(minimum)));
    }

  private:
    // The packed bytes of four blocks side by side.
    static TRIPTYCH_INLINE u32x16 nibbles(const uint8_t* p, u8x64 start, int64_t blocks) {
#if defined(__AVX512BW__)
        u16x32 index{};
        for (int i = 0; i < 24; ++i) index[i] = (i / 8 * kBytes + kHeader) / 2 + i % 8;
        const __m512i three = _mm512_permutexvar_epi16((__m512i)index, (__m512i)start);
        if (blocks < kGroup) return (u32x16)three;
        return (u32x16)_mm512_inserti32x4(three, load<__m128i>(p + 3 * kBytes + kHeader), 3);
#else
        u64x8 words{};
        for (int i = 0; i < 8 && i < 2 * blocks; ++i) words[i] = load<uint64_t>(p + i / 2 * kBytes + kHeader + i % 2 * 8);
        return (u32x16)words;
#endif
    }
};
