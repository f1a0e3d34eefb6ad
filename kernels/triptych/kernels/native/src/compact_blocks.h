// A block of 128 bfloat16 in twelve bits (kernels/compact_blocks.py): four rows of 32, made plain in registers.
//
// A byte of sign and mantissa for each, then half a byte, a code, which stands for an exponent. Rows 0 and 1 are interleaved
// by eights, as unpacking bytes parts them; rows 2 and 3 follow; codes of the first pair are in the low halves of bytes.

#pragma once

#include "simd.h"

constexpr int64_t kCompactRows = 4, kCompactColumns = 32;
constexpr int64_t kCompactWeights = kCompactRows * kCompactColumns, kCompactPairBytes = 2 * kCompactColumns;
constexpr int64_t kCompactBlockBytes = 3 * kCompactPairBytes;

// What codes stand for in the two bytes of a weight, beside its sign and mantissa.
struct Exponents {
    alignas(16) uint8_t high[16], low[16];

    explicit Exponents(uint32_t base) {
        for (uint32_t code = 0; code < 16; ++code) {
            const uint32_t exponent = code == 15 ? 0 : base - code;
            high[code] = static_cast<uint8_t>(exponent >> 1 & 0x7f);
            low[code] = static_cast<uint8_t>(exponent << 7);
        }
    }
};

#if defined(__AVX512BW__)
TRIPTYCH_INLINE __m512i look_up(const uint8_t (&table)[16], __m512i codes) {
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(table))), codes);
}
#elif defined(__AVX2__)
TRIPTYCH_INLINE __m256i look_up(const uint8_t (&table)[16], __m256i codes) {
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table))), codes);
}
#endif

// Two rows of a block.
template <int Pair>
TRIPTYCH_INLINE void expand_pair(const uint8_t* block, const Exponents& exponents, u16x32* rows) {
    const uint8_t *signed_mantissas = block + Pair * kCompactPairBytes, *codes = block + 2 * kCompactPairBytes;
#if defined(__AVX512BW__)
    const __m512i bytes = _mm512_loadu_si512(signed_mantissas), both = _mm512_loadu_si512(codes), sign = _mm512_set1_epi8(-128);
    const __m512i code = _mm512_and_si512(Pair ? _mm512_srli_epi16(both, 4) : both, _mm512_set1_epi8(15));
    const __m512i high = _mm512_ternarylogic_epi32(sign, bytes, look_up(exponents.high, code), 0xca);  // sign ? bytes : high
    const __m512i low = _mm512_ternarylogic_epi32(sign, look_up(exponents.low, code), bytes, 0xca);
    rows[0] = (u16x32)_mm512_unpacklo_epi8(low, high);
    rows[1] = (u16x32)_mm512_unpackhi_epi8(low, high);
#elif defined(__AVX2__)
    const __m256i sign = _mm256_set1_epi8(-128);
    for (int half = 0; half < 2; ++half) {
        const __m256i bytes = load<__m256i>(signed_mantissas + 32 * half), both = load<__m256i>(codes + 32 * half);
        const __m256i code = _mm256_and_si256(Pair ? _mm256_srli_epi16(both, 4) : both, _mm256_set1_epi8(15));
        const __m256i high = _mm256_or_si256(_mm256_and_si256(sign, bytes), look_up(exponents.high, code));
        const __m256i low = _mm256_or_si256(_mm256_andnot_si256(sign, bytes), look_up(exponents.low, code));
        store(reinterpret_cast<char*>(&rows[0]) + 32 * half, _mm256_unpacklo_epi8(low, high));
        store(reinterpret_cast<char*>(&rows[1]) + 32 * half, _mm256_unpackhi_epi8(low, high));
    }
#else
    for (int64_t i = 0; i < kCompactPairBytes; ++i) {
        const int code = codes[i] >> 4 * Pair & 15;
        const uint8_t high = (signed_mantissas[i] & 0x80) | exponents.high[code];
        const uint8_t low = (signed_mantissas[i] & 0x7f) | exponents.low[code];
        rows[i / 8 % 2][i / 16 * 8 + i % 8] = static_cast<uint16_t>(high << 8 | low);
    }
#endif
}

TRIPTYCH_INLINE void expand_block(const uint8_t* block, const Exponents& exponents, u16x32 (&rows)[kCompactRows]) {
    expand_pair<0>(block, exponents, rows);
    expand_pair<1>(block, exponents, rows + 2);
}

// Into the first-level cache: from there few rows of x were multiplied a seventh faster than from the second.
TRIPTYCH_INLINE void ask_for_block(const uint8_t* block) {
    for (int64_t line = 0; line < kCompactBlockBytes; line += 64) __builtin_prefetch(block + line, 0, 3);
}
