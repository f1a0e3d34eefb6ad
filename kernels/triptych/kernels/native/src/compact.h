// bfloat16 in twelve bits, losing nothing (kernels/compact.py): the exponents of trained weights differ little.
//
// Sixteen outputs' rows of I inputs are one run of 16·I weights: first a byte of sign and mantissa for each, then half a
// byte, a code: by how much the exponent lies below the base of the run. 15 stands for an exponent of 0, as zeros have,
// unless the weight is an exception, whose bits are in a table:
//
//   [runs] bases, [runs + 1] where each run's exceptions begin, then pairs: place in the run, bits

#pragma once

#include "dot.h"

constexpr int64_t kCompactBlock = 32;   // weights whose codes lie together: of the first sixteen in the low halves of bytes
constexpr int64_t kCompactAhead = 16 << 10;

// Thirty-two weights; `base` is in the exponent's place.
TRIPTYCH_INLINE u16x32 expand_block(const uint8_t* signs, const uint8_t* codes, uint16_t base) {
#if defined(__AVX512BW__)
    const __m512i wide = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(signs)));
    const __m512i pairs = _mm512_cvtepu8_epi16(_mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes))));
    const __m512i up = _mm512_inserti64x4(_mm512_set1_epi16(7), _mm256_set1_epi16(3), 1);
    const __m512i below = _mm512_and_si512(_mm512_sllv_epi16(pairs, up), _mm512_set1_epi16(0x780));
    const __mmask32 near = _mm512_cmpneq_epi16_mask(below, _mm512_set1_epi16(0x780));
    const __m512i exponent = _mm512_maskz_sub_epi16(near, _mm512_set1_epi16(static_cast<int16_t>(base)), below);
    const __m512i mantissa = _mm512_set1_epi16(0x7f), rest = _mm512_set1_epi16(static_cast<int16_t>(0x807f));
    const __m512i both = _mm512_ternarylogic_epi32(mantissa, wide, _mm512_slli_epi16(wide, 8), 0xca);  // mantissa ? wide : shifted
    return (u16x32)_mm512_ternarylogic_epi32(both, rest, exponent, 0xea);                              // (both & rest) | exponent
#else
    u16x32 numbers;
    const uint16_t places[2] = {15, 240};
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
        bf16* out = reinterpret_cast<bf16*>(&numbers) + half * 16;
        for (int i = 0; i < 16; ++i) {
            const uint16_t below = (codes[i] & places[half]) << 7 >> 4 * half, sign = signs[half * 16 + i];
            const uint16_t exponent = below == 15 << 7 ? 0 : base - below;
            out[i] = (sign & 0x80) << 8 | (sign & 0x7f) | exponent;
        }
    }
    return numbers;
#endif
}

// Exceptions that a table has room for, as in kernels/compact.py.
inline int64_t compact_room(int64_t outputs, int64_t inputs) { return 4 + outputs * inputs / 512; }

// A run, as rows for dot products: weights become plain in registers, or before where one of a tile is an exception.
struct CompactRows {
    static constexpr int kOfOneRow = 4;

    const uint8_t* run;
    int64_t inputs;
    uint16_t base;
    const int32_t *exceptions, *end;  // pairs
    bf16* plain;                      // [16, inputs], of the caller

    // `table` is that of the whole weight [outputs, inputs]. Where reading it has failed it may say anything: nothing outside
    // is touched then, and the step is told afterwards.
    CompactRows(const uint8_t* weight, const int32_t* table, int64_t outputs, int64_t inputs, int64_t output, bf16* plain)
        : run(weight + output * (inputs + inputs / 2)), inputs(inputs), plain(plain) {
        const int64_t runs = outputs / kGroup, room = compact_room(outputs, inputs);
        const int32_t *begins = table + runs + output / kGroup, *pairs = table + 2 * runs + 1;
        base = static_cast<uint16_t>(table[output / kGroup] << 7);
        exceptions = pairs + 2 * clamp(begins[0], 0, room);
        end = pairs + 2 * clamp(begins[1], 0, room);
    }

    template <int Columns>
    struct Packed {
        const uint8_t *signs, *codes, *later;
        int64_t inputs;
        uint16_t base;

        // Asks for as many bytes as it reads, some way on: runs lie one after the other.
        TRIPTYCH_INLINE u16x32 whole(int c, int64_t i) const {
            __builtin_prefetch(later + (i * Columns + c * kCompactBlock) * 3 / 2, 0, 2);
            return expand_block(signs + c * inputs + i, codes + (c * inputs + i) / 2, base);
        }
    };

    template <int Columns>
    struct Plain {
        const bf16* rows;
        int64_t inputs;

        TRIPTYCH_INLINE u16x32 whole(int c, int64_t i) const { return load<u16x32>(rows + c * inputs + i); }
        TRIPTYCH_INLINE u16x32 part(int c, int64_t i, int64_t bytes) const { return load_first<u16x32>(rows + c * inputs + i, bytes); }
    };

    // Of some rows from `first` on. Blocks of packed rows begin where rows do if they are as long as blocks.
    template <class T, int Rows, int Columns>
    TRIPTYCH_INLINE void dot(const T* x, int first, int64_t inner, f32x16 (*partial)[kGroup]) const {
        if (inputs % kCompactBlock == 0 && none_of(first, Columns)) {
            const Packed<Columns> packed{run + first * inputs, codes() + first * inputs / 2,
                                         run + first * inputs * 3 / 2 + kCompactAhead, inputs, base};
            return dot_tile<T, Rows, Columns>(x, packed, inner, partial);
        }
        expand(first, Columns);
        dot_tile<T, Rows, Columns>(x, Plain<Columns>{plain, inputs}, inner, partial);
    }

    // To the front of `plain`.
    void expand(int64_t first, int64_t rows) const {
        const uint8_t *from = run + first * inputs, *packed = codes() + first * inputs / 2;
        const int64_t count = rows * inputs;
        const uint8_t* later = run + first * inputs * 3 / 2 + kCompactAhead;
        for (int64_t i = 0; i < count; i += kCompactBlock) {
            __builtin_prefetch(later + i * 3 / 2, 0, 2);
            store(plain + i, expand_block(from + i, packed + i / 2, base));
        }
        for (const int32_t* pair = exceptions; pair < end; pair += 2) {
            const int64_t place = pair[0] - first * inputs;
            if (place >= 0 && place < count) plain[place] = static_cast<bf16>(pair[1]);
        }
    }

  private:
    const uint8_t* codes() const { return run + kGroup * inputs; }

    bool none_of(int64_t first, int64_t rows) const {
        for (const int32_t* pair = exceptions; pair < end; pair += 2)
            if (pair[0] >= first * inputs && pair[0] < (first + rows) * inputs) return false;
        return true;
    }
};
