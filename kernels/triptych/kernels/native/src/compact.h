// bfloat16 in twelve bits, losing nothing (kernels/compact.py): the exponents of trained weights differ little.
//
// Sixteen outputs' rows of I inputs are one run of 16·I weights, in groups of 128 (compact_groups.h). A weight's code says by
// how much its exponent lies below the base of the run. 15 stands for an exponent of 0, as zeros have, unless the weight is an
// exception, whose bits are in a table:
//
//   [runs] bases, [runs + 1] where each run's exceptions begin, then pairs: place in the run, bits
//
// Where I is a multiple of 32, groups are of four outputs each, one after the other along their inputs, so that a tile of four
// outputs is read in one go; else of neighbours in the run.

#pragma once

#include "compact_groups.h"
#include "dot.h"

constexpr int64_t kTilesAhead = 8 << 10, kRunsAhead = 4 << 10;  // bytes to ask for in advance; runs that are no tiles are short

// Exceptions that a table has room for, as in kernels/compact.py.
inline int64_t compact_room(int64_t outputs, int64_t inputs) { return 4 + outputs * inputs / 512; }

// A run, as rows for dot products: weights become plain in registers, exceptions among them.
class CompactRows {
  public:
    // Of a tile for so many rows of x: four, or a pair where sums of four would not stay in registers.
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
        const int64_t step = in_tiles() ? inputs_ : kCompactColumns, groups = kGroup * inputs_ / (kCompactRows * kCompactColumns);
        for (int64_t g = 0; g < groups; ++g) {
            const uint8_t* group = run_ + g * kGroupBytes;
            u16x32 rows[kCompactRows];
            ask_for_group(group + kRunsAhead);
            expand_group(group, exponents_, rows);
            for (int64_t r = 0; r < kCompactRows; ++r) store(plain_ + place(g) + r * step, rows[r]);
        }
        for (const int32_t* pair = exceptions_; pair < end_; pair += 2)
            if (pair[0] >= 0 && pair[0] < kGroup * inputs_) plain_[pair[0]] = static_cast<bf16>(pair[1]);
    }

  private:
    template <int Columns>
    class Tile {
      public:
        Tile(const CompactRows& weight, int first)
            : weight_(weight), first_(first), next_(next(0)),
              groups_(weight.run_ + first / kCompactRows * kCompactRows * weight.inputs_ * 3 / 2) {}

        TRIPTYCH_INLINE void whole(int64_t i, u16x32 (&w)[Columns]) {
            const uint8_t* group = groups_ + i / kCompactColumns * kGroupBytes;
            ask_for_group(group + kTilesAhead);
            if constexpr (Columns == kCompactRows) expand_group(group, weight_.exponents_, w);
            else if (first_ % kCompactRows) expand_pair<1>(group, weight_.exponents_, w);
            else expand_pair<0>(group, weight_.exponents_, w);
            if (i == next_) [[unlikely]] mend(i, w);
        }

      private:
        struct Block {
            bf16 rows[Columns][kCompactColumns];
        };

        // Of a copy, so that `w` stays in registers where there is no exception.
        TRIPTYCH_INLINE void mend(int64_t i, u16x32 (&w)[Columns]) {
            Block block;
            for (int c = 0; c < Columns; ++c) store(block.rows[c], w[c]);
            mend(i, block);
            for (int c = 0; c < Columns; ++c) w[c] = load<u16x32>(block.rows[c]);
        }

        __attribute__((noinline)) void mend(int64_t i, Block& block) {
            each(i, [&](int64_t column, int64_t input, bf16 bits) {
                if (input < i + kCompactColumns) block.rows[column][input - i] = bits;
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
            for (const int32_t* pair = weight_.exceptions_; pair < weight_.end_; pair += 2) {
                const int64_t place = pair[0] - first_ * weight_.inputs_;
                if (place < 0 || place >= Columns * weight_.inputs_) continue;
                const int64_t input = place % weight_.inputs_;
                if (input >= from) take(place / weight_.inputs_, input, static_cast<bf16>(pair[1]));
            }
        }

        const CompactRows& weight_;
        int64_t first_, next_;
        const uint8_t* groups_;
    };

    // Whether groups are of four outputs each.
    bool in_tiles() const { return inputs_ % kCompactColumns == 0; }

    // Of a group in the plain run.
    int64_t place(int64_t group) const {
        if (!in_tiles()) return group * kCompactRows * kCompactColumns;
        const int64_t along = inputs_ / kCompactColumns;
        return group / along * kCompactRows * inputs_ + group % along * kCompactColumns;
    }

    const uint8_t* run_;
    int64_t inputs_;
    Exponents exponents_;
    const int32_t *exceptions_, *end_;  // pairs
    bf16* plain_;
};
