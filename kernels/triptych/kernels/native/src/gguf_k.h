// ggml's block_q4_K, block_q5_K and block_q6_K: super-blocks of 256 weights, whose parts have small integers as scales.

#pragma once

#include "gguf_blocks.h"

constexpr int kSuper = 8;    // blocks of a super-block
constexpr int kQuarters = 4;  // registers that its bytes fill

// Numbers First, First + 1, … of a register, each in Each lanes.
template <int First, int Each>
TRIPTYCH_INLINE f32x16 spread(f32x16 v) {
    return __builtin_shufflevector(v, v, First, First + 1 / Each, First + 2 / Each, First + 3 / Each, First + 4 / Each,
                                   First + 5 / Each, First + 6 / Each, First + 7 / Each, First + 8 / Each,
                                   First + 9 / Each, First + 10 / Each, First + 11 / Each, First + 12 / Each,
                                   First + 13 / Each, First + 14 / Each, First + 15 / Each);
}

// 32 bytes twice, the second time shifted further to the right.
TRIPTYCH_INLINE u32x16 twice(const uint8_t* p, uint32_t first, uint32_t second) {
    const u64x4 once = load<u64x4>(p);
    const u32x16 shifts = {first,  first,  first,  first,  first,  first,  first,  first,
                           second, second, second, second, second, second, second, second};
    return (u32x16)__builtin_shufflevector(once, once, 0, 1, 2, 3, 0, 1, 2, 3) >> shifts;
}

// A super-block: its bytes in their order, and the scale of each lane of four of them.
struct Super {
    u8x64 values[kQuarters];
    f32x16 scales[kQuarters];
    f32x16 minima;  // of the eight blocks, in the upper lanes
};

// 256 weights of 4 or 5 bits. Scales and minima are two halves times integers of 6 bits, which are packed in 12 bytes;
// of every 32 bytes the low halves are a block and the high halves the next.
template <bool HasFifth>
struct K45 {
    static constexpr int kBytes = HasFifth ? 176 : 144, kBlocks = kSuper, kGroup = kSuper, kScales = 1;
    static constexpr int kPacked = HasFifth ? 48 : 16;  // where the halves begin
    static constexpr bool kMinimum = true;
    static constexpr int32_t kZero = 0;
    using Weights = Super;

    // Activations of a super-block.
    struct Row {
        int8_t values[64 * kQuarters];
        float scales[kLanes * kQuarters];  // of a block, in each of its eight lanes
        float sums[kLanes];                // scale · Σ q of the eight blocks, in the upper lanes
    };

    static TRIPTYCH_INLINE Super weights(const uint8_t* p, int64_t) {
        const f32x16 both = scales_and_minima(p);
        return {{quarter<0>(p), quarter<1>(p), quarter<2>(p), quarter<3>(p)},
                {spread<0, 8>(both), spread<2, 8>(both), spread<4, 8>(both), spread<6, 8>(both)},
                both};
    }

    static TRIPTYCH_INLINE f32x16 add_product(f32x16 sums, const Super& w, const Row& x) {
#pragma GCC unroll 4
        for (int i = 0; i < kQuarters; ++i) {
            const i32x16 dots = dot_u8i8(i32x16{}, w.values[i], load<i8x64>(x.values + 64 * i));
            sums = fma(to_float(dots), w.scales[i] * load<f32x16>(x.scales + kLanes * i), sums);
        }
        return fma(w.minima, load<f32x16>(x.sums), sums);
    }

    static void put(Row& x, int64_t block, const int8_t* values, float scale, int32_t sum) {
        std::memcpy(x.values + 32 * block, values, 32);
        for (int64_t lane = 8 * block; lane < 8 * block + 8; ++lane) x.scales[lane] = scale;
        x.sums[block] = 0;
        x.sums[kSuper + block] = scale * sum;
    }

    static TRIPTYCH_INLINE void unpack(const Super& w, uint8_t* bytes) {
        for (int i = 0; i < kQuarters; ++i) store(bytes + 64 * i, w.values[i]);
    }

    static void headers(const uint8_t* p, float* scales, float* minima) {
        const f32x16 both = scales_and_minima(p);
        for (int i = 0; i < kSuper; ++i) {
            scales[i] = both[i];
            minima[i] = both[kSuper + i];
        }
    }

    static void dequantize(const uint8_t* p, float* values) {
        alignas(64) uint8_t bytes[64 * kQuarters];
        const Super super = weights(p, kSuper);
        unpack(super, bytes);
        for (int64_t i = 0; i < kSuper * kBlock; i += kLanes) {
            const f32x16 plain = to_float(load<u8x16>(bytes + i));
            const int block = i / kBlock;
            store(values + i, fma(plain, splat(super.minima[block]), splat(super.minima[kSuper + block])));
        }
    }

  private:
    // Eight scales, eight minima.
    static TRIPTYCH_INLINE f32x16 scales_and_minima(const uint8_t* p) {
        const uint32_t a = load<uint32_t>(p + 4), b = load<uint32_t>(p + 8), c = load<uint32_t>(p + 12);
        const uint32_t packed[4] = {a & 0x3f3f3f3f, (c & 0x0f0f0f0f) | (a >> 6 & 0x03030303) << 4, b & 0x3f3f3f3f,
                                    (c >> 4 & 0x0f0f0f0f) | (b >> 6 & 0x03030303) << 4};
        const f32x16 integers = to_float(load<u8x16>(packed));
        const float scale = half_at(p), minimum = -half_at(p + 2);
        return integers * __builtin_shufflevector(splat(scale), splat(minimum), 0, 1, 2, 3, 4, 5, 6, 7, 24, 25, 26, 27,
                                                  28, 29, 30, 31);
    }

    template <int I>
    static TRIPTYCH_INLINE u8x64 quarter(const uint8_t* p) {
        const u32x16 low = twice(p + kPacked + 32 * I, 0, 4) & 0x0f0f0f0f;
        if constexpr (!HasFifth) return (u8x64)low;
        return (u8x64)(low | (twice(p + 16, 2 * I, 2 * I + 1) & 0x01010101) << 4);
    }
};

// 256 weights of 6 bits, with 32 as the zero, and a scale of 8 bits times a half for every 16 of them. First the lower
// four bits, two weights 64 apart in a byte; then the upper two, four weights 32 apart.
struct K6 {
    static constexpr int kBytes = 210, kBlocks = kSuper, kGroup = kSuper, kScales = 2;
    static constexpr bool kMinimum = false;
    static constexpr int32_t kZero = 32;
    using Weights = Super;

    struct Row {
        int8_t values[64 * kQuarters];
        float scales[kLanes * kQuarters];    // of a block, in each of its eight lanes
        int32_t starts[kLanes * kQuarters];  // -zero · Σ q of half a block, in the first of its four lanes
    };

    static TRIPTYCH_INLINE Super weights(const uint8_t* p, int64_t) {
        const f32x16 scales = all_scales(p);
        Super super{{}, {spread<0, 4>(scales), spread<4, 4>(scales), spread<8, 4>(scales), spread<12, 4>(scales)}, scales};
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
            const u32x16 lower = load<u32x16>(p + 64 * half);
            const uint8_t* upper = p + 128 + 32 * half;
            super.values[2 * half] = (u8x64)((lower & 0x0f0f0f0f) | (twice(upper, 0, 2) & 0x03030303) << 4);
            super.values[2 * half + 1] = (u8x64)((lower >> 4 & 0x0f0f0f0f) | (twice(upper, 4, 6) & 0x03030303) << 4);
        }
        return super;
    }

    static TRIPTYCH_INLINE f32x16 add_product(f32x16 sums, const Super& w, const Row& x) {
#pragma GCC unroll 4
        for (int i = 0; i < kQuarters; ++i) {
            const i32x16 starts = load<i32x16>(x.starts + kLanes * i);
            const i32x16 dots = dot_u8i8(starts, w.values[i], load<i8x64>(x.values + 64 * i));
            sums = fma(to_float(dots), w.scales[i] * load<f32x16>(x.scales + kLanes * i), sums);
        }
        return sums;
    }

    static void put(Row& x, int64_t block, const int8_t* values, float scale, int32_t sum) {
        std::memcpy(x.values + 32 * block, values, 32);
        for (int64_t lane = 8 * block; lane < 8 * block + 8; ++lane) {
            x.scales[lane] = scale;
            x.starts[lane] = 0;
        }
        int32_t first = 0;
        for (int i = 0; i < kBlock / 2; ++i) first += values[i];
        x.starts[8 * block] = -kZero * first;
        x.starts[8 * block + 4] = -kZero * (sum - first);
    }

    static TRIPTYCH_INLINE void unpack(const Super& w, uint8_t* bytes) {
        for (int i = 0; i < kQuarters; ++i) store(bytes + 64 * i, w.values[i]);
    }

    static void headers(const uint8_t* p, float* scales, float*) { store(scales, all_scales(p)); }

    static void dequantize(const uint8_t* p, float* values) {
        alignas(64) uint8_t bytes[64 * kQuarters];
        const Super super = weights(p, kSuper);
        unpack(super, bytes);
        for (int64_t i = 0; i < kSuper * kBlock; i += kLanes) {
            const i32x16 plain = to_int(load<u8x16>(bytes + i)) - kZero;
            store(values + i, to_float(plain) * super.minima[i / kLanes]);
        }
    }

  private:
    static TRIPTYCH_INLINE f32x16 all_scales(const uint8_t* p) {
        return to_float(load<i8x16>(p + 192)) * half_at(p + 208);
    }
};
