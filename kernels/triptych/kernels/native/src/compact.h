// bfloat16 in twelve bits, losing nothing (kernels/compact.py): the exponents of trained weights differ little.
//
// Sixteen outputs' rows of I inputs are one run of 16·I weights, in blocks of 128 (compact_blocks.h). A weight's code says by
// how much its exponent lies below the base of the run. 15 stands for an exponent of 0, as zeros have, unless the weight is an
// exception, whose bits are in a table:
//
//   [runs] bases, [runs + 1] where each run's exceptions begin, then pairs: place in the run, bits; ascending
//
// Where I is a multiple of 32, blocks are of four outputs each, one after the other along their inputs, so that a tile of four
// outputs is read in one go; else of neighbours in the run.

#pragma once

#include "compact_blocks.h"
#include "dot.h"

constexpr int64_t kTilesAhead = 8 << 10;  // bytes to ask for in advance where blocks are multiplied in registers
constexpr int64_t kRunsAhead = 4 << 10;   // and where a run is made plain first

// Exceptions that a table has room for, as in kernels/compact.py.
inline int64_t compact_room(int64_t outputs, int64_t inputs) { return 4 + outputs * inputs / 512; }

// Of a run: pairs.
struct Exceptions {
    const int32_t *begin, *end;

    // `table` is that of the whole weight [outputs, inputs]. Where reading it has failed it may say anything: nothing outside
    // is touched then, and the step is told afterwards.
    Exceptions(const int32_t* table, int64_t outputs, int64_t inputs, int64_t output) {
        const int64_t runs = outputs / kGroup, room = compact_room(outputs, inputs);
        const int32_t *begins = table + runs + output / kGroup, *pairs = table + 2 * runs + 1;
        begin = pairs + 2 * clamp(begins[0], 0, room);
        end = pairs + 2 * clamp(begins[1], 0, room);
    }

    // Calls take(place, bits) for those in [first, last) of the run.
    template <class Take>
    TRIPTYCH_INLINE void each(int64_t first, int64_t last, Take&& take) const {
        for (const int32_t* pair = begin; pair < end; pair += 2)
            if (pair[0] >= first && pair[0] < last) take(pair[0], static_cast<bf16>(pair[1]));
    }
};

// A run.
class CompactRows {
  public:
    // Of a tile for so many rows of x: four, or a pair where sums of four would not stay in registers.
    template <int Rows>
    static constexpr int kColumns = Rows <= 6 ? 4 : 2;

    CompactRows(const uint8_t* weight, const int32_t* table, int64_t outputs, int64_t inputs, int64_t output)
        : run_(weight + output * inputs * 3 / 2), inputs_(inputs), exponents_(static_cast<uint32_t>(table[output / kGroup])),
          exceptions_(table, outputs, inputs, output) {}

    // Of four outputs, in registers; `inner` is a multiple of 32.
    template <class T, int Rows, int Columns>
    TRIPTYCH_INLINE void dot(const T* x, int first, int64_t inner, f32x16 (*partial)[kGroup]) const {
        dot_tile<T, Rows, Columns>(x, Tile<Columns>(*this, first), inner, partial);
    }

    // All rows, made plain: [16, inputs].
    void expand(bf16* plain) const {
        if (inputs_ % kCompactColumns == 0) {
            for (int64_t row = 0; row < kGroup; row += kCompactRows)
                expand(run_ + row * inputs_ * 3 / 2, inputs_ / kCompactColumns, plain + row * inputs_, kCompactColumns, inputs_);
        } else {
            expand(run_, kGroup * inputs_ / kCompactWeights, plain, kCompactWeights, kCompactColumns);
        }
        exceptions_.each(0, kGroup * inputs_, [&](int64_t place, bf16 bits) { plain[place] = bits; });
    }

  private:
    template <int Columns>
    class Tile {
      public:
        Tile(const CompactRows& weight, int first)
            : weight_(weight), first_(first * weight.inputs_), pair_(first % kCompactRows), next_(next(0)),
              blocks_(weight.run_ + first / kCompactRows * kCompactRows * weight.inputs_ * 3 / 2) {}

        TRIPTYCH_INLINE void whole(int64_t i, u16x32 (&w)[Columns]) {
            const uint8_t* block = blocks_ + i / kCompactColumns * kCompactBlockBytes;
            ask_for_block(block + kTilesAhead);
            if constexpr (Columns == kCompactRows) expand_block(block, weight_.exponents_, w);
            else if (pair_) expand_pair<1>(block, weight_.exponents_, w);
            else expand_pair<0>(block, weight_.exponents_, w);
            if (i == next_) [[unlikely]] {  // through a copy: otherwise `w` would always lie in memory
                Patched patched;
                for (int c = 0; c < Columns; ++c) store(patched.rows[c], w[c]);
                patch(i, patched);
                for (int c = 0; c < Columns; ++c) w[c] = load<u16x32>(patched.rows[c]);
            }
        }

      private:
        struct Patched {
            bf16 rows[Columns][kCompactColumns];
        };

        __attribute__((noinline)) void patch(int64_t i, Patched& patched) {
            each(i, [&](int64_t column, int64_t input, bf16 bits) {
                if (input < i + kCompactColumns) patched.rows[column][input - i] = bits;
            });
            next_ = next(i + kCompactColumns);
        }

        // Where the next block with exceptions begins.
        int64_t next(int64_t from) const {
            int64_t found = weight_.inputs_;
            each(from, [&](int64_t, int64_t input, bf16) { found = std::min(found, input / kCompactColumns * kCompactColumns); });
            return found;
        }

        // Calls take(column, input, bits) for every exception of these rows from an input on.
        template <class Take>
        void each(int64_t from, Take&& take) const {
            const int64_t inputs = weight_.inputs_;
            weight_.exceptions_.each(first_, first_ + Columns * inputs, [&](int64_t place, bf16 bits) {
                const int64_t input = (place - first_) % inputs;
                if (input >= from) take((place - first_) / inputs, input, bits);
            });
        }

        const CompactRows& weight_;
        int64_t first_;  // place of the tile in the run
        bool pair_;      // of two columns: whether they are the second pair of their blocks
        int64_t next_;
        const uint8_t* blocks_;
    };

    // So many blocks, whose first weights are `step` apart, and whose rows `apart`.
    void expand(const uint8_t* block, int64_t count, bf16* to, int64_t step, int64_t apart) const {
        const Exponents exponents = exponents_;  // what is written may not be taken for it
        for (; count > 0; --count, block += kCompactBlockBytes, to += step) {
            u16x32 rows[kCompactRows];
            ask_for_block(block + kRunsAhead);
            expand_block(block, exponents, rows);
            for (int64_t r = 0; r < kCompactRows; ++r) store(to + r * apart, rows[r]);
        }
    }

    const uint8_t* run_;
    int64_t inputs_;
    Exponents exponents_;
    Exceptions exceptions_;
};
