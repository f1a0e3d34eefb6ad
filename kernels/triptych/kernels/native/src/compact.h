// bfloat16 in twelve bits, losing nothing (kernels/compact.py): the exponents of trained weights differ little.
//
// Sixteen outputs' rows of I inputs are one run of 16·I weights, in groups of 128: a byte of sign and mantissa for each,
// then half a byte, a code: by how much the exponent lies below the base of the run. 15 stands for an exponent of 0, as
// zeros have, unless the weight is an exception, whose bits are in a table:
//
//   [runs] bases, [runs + 1] where each run's exceptions begin, then pairs: place in the run, bits
//
// A group is four rows of 32: of four outputs, where I is a multiple of 32, group after group along their inputs, so that
// a tile of four outputs is read in one go; else of neighbours in the run. Rows 0 and 1 are interleaved by eights, as
// unpacking bytes parts them; rows 2 and 3 follow; codes of the first pair are in the low halves of bytes.

#pragma once

#include "dot.h"

constexpr int64_t kCompactRows = 4, kCompactColumns = 32;  // of a group
constexpr int64_t kPairBytes = 2 * kCompactColumns;
constexpr int64_t kGroupBytes = 3 * kPairBytes;
constexpr int64_t kCompactAhead = 8 << 10;  // into the first-level cache: a tile is read once

// What codes stand for in the two bytes of a weight, above its sign and mantissa.
struct Exponents {
    alignas(16) uint8_t high[16], low[16];

    explicit Exponents(int32_t base) {
        for (int32_t code = 0; code < 16; ++code) {
            const int32_t exponent = code == 15 ? 0 : base - code;
            high[code] = static_cast<uint8_t>(exponent >> 1 & 0x7f);
            low[code] = static_cast<uint8_t>(exponent << 7);
        }
    }
};

// Two rows of a group: `signs` of that pair, the codes of the group.
template <int Pair>
TRIPTYCH_INLINE void expand_pair(const uint8_t* signs, const uint8_t* codes, const Exponents& exponents, u16x32* rows) {
#if defined(__AVX512BW__)
    const auto table = [](const uint8_t* bytes) { return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes))); };
    const __m512i bytes = _mm512_loadu_si512(signs), both = _mm512_loadu_si512(codes), sign = _mm512_set1_epi8(-128);
    const __m512i code = _mm512_and_si512(Pair ? _mm512_srli_epi16(both, 4) : both, _mm512_set1_epi8(15));
    const __m512i above = _mm512_shuffle_epi8(table(exponents.high), code), below = _mm512_shuffle_epi8(table(exponents.low), code);
    const __m512i high = _mm512_ternarylogic_epi32(sign, bytes, above, 0xca);  // sign ? bytes : above
    const __m512i low = _mm512_ternarylogic_epi32(sign, below, bytes, 0xca);
    rows[0] = (u16x32)_mm512_unpacklo_epi8(low, high);
    rows[1] = (u16x32)_mm512_unpackhi_epi8(low, high);
#elif defined(__AVX2__)
    const auto table = [](const uint8_t* bytes) { return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes))); };
    const __m256i sign = _mm256_set1_epi8(-128);
    for (int half = 0; half < 2; ++half) {
        const __m256i bytes = load<__m256i>(signs + 32 * half), both = load<__m256i>(codes + 32 * half);
        const __m256i code = _mm256_and_si256(Pair ? _mm256_srli_epi16(both, 4) : both, _mm256_set1_epi8(15));
        const __m256i above = _mm256_shuffle_epi8(table(exponents.high), code), below = _mm256_shuffle_epi8(table(exponents.low), code);
        const __m256i high = _mm256_or_si256(_mm256_and_si256(sign, bytes), above);
        const __m256i low = _mm256_or_si256(_mm256_andnot_si256(sign, bytes), below);
        store(reinterpret_cast<char*>(&rows[0]) + 32 * half, _mm256_unpacklo_epi8(low, high));
        store(reinterpret_cast<char*>(&rows[1]) + 32 * half, _mm256_unpackhi_epi8(low, high));
    }
#else
    for (int64_t i = 0; i < kPairBytes; ++i) {
        const int code = codes[i] >> 4 * Pair & 15;
        const uint8_t high = (signs[i] & 0x80) | exponents.high[code], low = (signs[i] & 0x7f) | exponents.low[code];
        rows[i / 8 % 2][i / 16 * 8 + i % 8] = static_cast<uint16_t>(high << 8 | low);
    }
#endif
}

// Exceptions that a table has room for, as in kernels/compact.py.
inline int64_t compact_room(int64_t outputs, int64_t inputs) { return 4 + outputs * inputs / 512; }

// A run, as rows for dot products: weights become plain in registers, exceptions among them.
class CompactRows {
  public:
    // Of a tile of so many rows of x: four, or a pair where sums would not stay in registers.
    template <int Rows>
    static constexpr int kColumns = Rows <= 6 ? 4 : 2;

    // `table` is that of the whole weight [outputs, inputs]. Where reading it has failed it may say anything: nothing outside
    // is touched then, and the step is told afterwards. `plain` has room for [16, inputs].
    CompactRows(const uint8_t* weight, const int32_t* table, int64_t outputs, int64_t inputs, int64_t output, bf16* plain)
        : run_(weight + output * inputs * 3 / 2), inputs_(inputs), exponents_(table[output / kGroup]), plain_(plain) {
        const int64_t runs = outputs / kGroup, room = compact_room(outputs, inputs);
        const int32_t *begins = table + runs + output / kGroup, *pairs = table + 2 * runs + 1;
        exceptions_ = pairs + 2 * clamp(begins[0], 0, room);
        end_ = pairs + 2 * clamp(begins[1], 0, room);
        if (!in_tiles()) expand();
    }

    template <class T, int Rows, int Columns>
    TRIPTYCH_INLINE void dot(const T* x, int first, int64_t inner, f32x16 (*partial)[kGroup]) const {
        if (in_tiles()) return dot_tile<T, Rows, Columns>(x, Tile<Columns>(*this, first), inner, partial);
        const bf16* rows[Columns];
        for (int c = 0; c < Columns; ++c) rows[c] = plain_ + (first + c) * inputs_;
        dot_tile<T, Rows, Columns>(x, PlainTile<bf16, 0>{rows}, inner, partial);
    }

    // All rows, made plain.
    void expand() const {
        const int64_t groups = kGroup * inputs_ / (kCompactRows * kCompactColumns), along = inputs_ / kCompactColumns;
        for (int64_t g = 0; g < groups; ++g) {
            const int64_t step = in_tiles() ? inputs_ : kCompactColumns;
            bf16* to = plain_ + (in_tiles() ? g / along * kCompactRows * inputs_ + g % along * kCompactColumns : g * kCompactRows * kCompactColumns);
            u16x32 rows[kCompactRows];
            expand_group(run_ + g * kGroupBytes, rows);
            for (int64_t r = 0; r < kCompactRows; ++r) store(to + r * step, rows[r]);
        }
        for (const int32_t* pair = exceptions_; pair < end_; pair += 2)
            if (pair[0] >= 0 && pair[0] < kGroup * inputs_) plain_[pair[0]] = static_cast<bf16>(pair[1]);
    }

  private:
    template <int Columns>
    class Tile {
      public:
        Tile(const CompactRows& weight, int first)
            : weight_(weight), tile_(weight.run_ + first / kCompactRows * kCompactRows * weight.inputs_ * 3 / 2), first_(first), next_(next(0)) {}

        TRIPTYCH_INLINE void whole(int64_t i, u16x32 (&w)[Columns]) {
            const uint8_t* group = tile_ + i / kCompactColumns * kGroupBytes;
            for (int line = 0; line < 3; ++line) __builtin_prefetch(group + kCompactAhead + 64 * line, 0, 3);
            if constexpr (Columns == 4) weight_.expand_group(group, w);
            else if (first_ % kCompactRows) expand_pair<1>(group + kPairBytes, group + 2 * kPairBytes, weight_.exponents_, w);
            else expand_pair<0>(group, group + 2 * kPairBytes, weight_.exponents_, w);
            if (i == next_) [[unlikely]] {
                Block block;
                for (int c = 0; c < Columns; ++c) store(block.rows[c], w[c]);
                mend(i, block);
                for (int c = 0; c < Columns; ++c) w[c] = load<u16x32>(block.rows[c]);
            }
        }

      private:
        struct Block {
            bf16 rows[Columns][kCompactColumns];
        };

        // Calls take(column, input, bits) for every exception of these rows from an input on.
        template <class Take>
        void each(int64_t from, Take&& take) const {
            for (const int32_t* pair = weight_.exceptions_; pair < weight_.end_; pair += 2) {
                const int64_t place = pair[0] - first_ * weight_.inputs_;
                if (place < 0 || place >= Columns * weight_.inputs_) continue;
                if (const int64_t input = place % weight_.inputs_; input >= from) take(place / weight_.inputs_, input, static_cast<bf16>(pair[1]));
            }
        }

        // Where the next block with exceptions begins.
        int64_t next(int64_t from) const {
            int64_t found = weight_.inputs_;
            each(from, [&](int64_t, int64_t input, bf16) { found = std::min(found, input / kCompactColumns * kCompactColumns); });
            return found;
        }

        __attribute__((noinline)) void mend(int64_t i, Block& block) {
            each(i, [&](int64_t column, int64_t input, bf16 bits) {
                if (input < i + kCompactColumns) block.rows[column][input - i] = bits;
            });
            next_ = next(i + kCompactColumns);
        }

        const CompactRows& weight_;
        const uint8_t* tile_;
        int64_t first_, next_;
    };

    // Whether groups are of four outputs each.
    bool in_tiles() const { return inputs_ % kCompactColumns == 0; }

    TRIPTYCH_INLINE void expand_group(const uint8_t* group, u16x32 (&rows)[kCompactRows]) const {
        expand_pair<0>(group, group + 2 * kPairBytes, exponents_, rows);
        expand_pair<1>(group + kPairBytes, group + 2 * kPairBytes, exponents_, rows + 2);
    }

    const uint8_t* run_;
    int64_t inputs_;
    Exponents exponents_;
    const int32_t *exceptions_, *end_;  // pairs
    bf16* plain_;
};
