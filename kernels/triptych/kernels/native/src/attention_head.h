// The query rows of a piece that share one key head, and their results on the way.

#pragma once

#include <algorithm>

#include "attention_tile.h"
#include "attention_work.h"

// A result that a split leaves: its sums, and after them its total and its largest score.
inline int64_t partial_width(const AttentionArgs& args) { return args.head_dim + 2; }

inline float* partial(const AttentionArgs& args, int64_t row, int64_t head, int64_t split) {
    return args.partials + ((row * args.heads + head) * kMaxSplits + split) * partial_width(args);
}

template <class T>
inline float exponent_scale(const AttentionArgs& args) {
    return static_cast<float>(args.softcap != 0 ? 1.0 : args.scale) * Arithmetic<T>::kBase;
}

// What the sums of a row are multiplied by: one over its total, to which the head's sink adds its power.
inline float share_of(const AttentionArgs& args, int64_t head, float most, float total) {
    if (!args.sinks) return 1.0f / total;
    const float top = most * static_cast<float>(args.softcap != 0 ? 1.0 : args.scale), sink = args.sinks[head];
    if (sink <= top) return 1.0f / (total + std::exp(sink - top));
    const float faded = std::exp(top - sink);
    return faded / (total * faded + 1.0f);
}

// A row is a query token and one of the query heads that share the key head.
template <class T>
class HeadRows {
  public:
    // Takes memory from `scratch`, which moves behind it.
    HeadRows(const AttentionArgs& args, const Work& work, int64_t head, char*& scratch)
        : args_(args), work_(work), head_(head), token_(work.tile * args.tile_tokens()) {
        const Sequence& sequence = work.sequence;
        count_ = std::min(args.tile_tokens(), sequence.queries - token_) * args.group();
        const auto take = [&]<class U>(U*& place, int64_t length) {
            place = reinterpret_cast<U*>(scratch);
            scratch += (length * static_cast<int64_t>(sizeof(U)) + 63) / 64 * 64;
        };
        take(q_, count_ * args.head_dim);
        take(sums_, count_ * args.head_dim);
        take(totals_, count_);
        take(most_, count_);
        take(from_, count_);
        take(to_, count_);
        prepare();
    }

    // The tokens that any of the rows sees, from a multiple of 16 on.
    int64_t first() const { return from_[0] / kLanes * kLanes; }
    int64_t last() const { return to_[count_ - 1]; }

    // Takes tokens [first, last), of one tile, into the results.
    void attend(int64_t first, int64_t last, char* scratch) {
        Columns<T> columns;
        columns.first = first;
        columns.stop = last;
        columns.key_stride = args_.block_size;
        columns.head_dim = args_.head_dim;
        locate(columns);
        const Scoring scoring{
            exponent_scale<T>(args_), static_cast<float>(args_.softcap),
            args_.softcap != 0 ? static_cast<float>(args_.scale / args_.softcap) : 0
        };
        const int64_t blocks = (count_ + kRows - 1) / kRows;
        for (int64_t block = 0; block < blocks; ++block)
            attend_rows(share(count_, 1, block, blocks), columns, scoring, scratch);
    }

    void finish() {
        for (int64_t r = 0; r < count_; ++r) work_.sequence.splits > 1 ? leave_partial(r) : write(r);
    }

  private:
    void prepare() {
        const Sequence& sequence = work_.sequence;
        const int64_t group = args_.group(), width = group * args_.head_dim;
        for (int64_t t = 0; t < count_ / group; ++t) {
            const int64_t row = sequence.row + token_ + t;
            const T* source = static_cast<const T*>(args_.q) + row * args_.q_stride + head_ * width;
            std::copy(source, source + width, q_ + t * width);
        }
        std::fill(sums_, sums_ + count_ * args_.head_dim, 0.0f);
        for (int64_t r = 0; r < count_; ++r) {
            const int64_t seen = sequence.length - sequence.queries + token_ + r / group + 1;
            totals_[r] = f32x16{};
            most_[r] = kNothing;
            from_[r] = std::max(work_.first(), args_.window ? seen - args_.window : 0);
            to_[r] = std::min(work_.last(), seen);
        }
    }

    void locate(Columns<T>& columns) const {
        const Pages<const T> pages{
            static_cast<const T*>(args_.pages), args_.kv_heads, args_.block_size, args_.head_dim
        };
        const int32_t* table = args_.block_tables + work_.sequence.index * args_.table_stride;
        const bool last_head = head_ + 1 == work_.last_head;
        int64_t column = 0;
        for (int64_t token = columns.first; token < columns.stop; token += kLanes, ++column) {
            const int64_t block = table[token / args_.block_size], offset = token % args_.block_size;
            columns.keys[column] = pages.keys(block, head_) + pages.key_at(offset, 0);
            columns.values[column] = pages.values(block, head_) + pages.value_at(offset, 0);
            // After the last head the first one goes on with the next tile, where there is one.
            const int64_t later = last_head ? columns.stop + column * kLanes : token;
            if (later < last()) {
                const T* slab = pages.keys(table[later / args_.block_size], last_head ? work_.head : head_ + 1);
                columns.next[column] = slab + later % args_.block_size * args_.head_dim;
            } else {
                columns.next[column] = columns.values[column];  // here already
            }
        }
    }

    void attend_rows(Range range, const Columns<T>& columns, const Scoring& scoring, char* scratch) {
        const int64_t r = range.first, offset = r * args_.head_dim;
        const Rows<T> rows{q_ + offset, sums_ + offset, totals_ + r, most_ + r, from_ + r, to_ + r};
        switch (range.last - r) {
            case 1: return attend_tile<T, 1>(rows, columns, scoring, scratch);
            case 2: return attend_tile<T, 2>(rows, columns, scoring, scratch);
            case 3: return attend_tile<T, 3>(rows, columns, scoring, scratch);
            case 4: return attend_tile<T, 4>(rows, columns, scoring, scratch);
#if defined(__AVX512F__)
            case 5: return attend_tile<T, 5>(rows, columns, scoring, scratch);
            case 6: return attend_tile<T, 6>(rows, columns, scoring, scratch);
#endif
        }
    }

    int64_t query_head(int64_t r) const { return head_ * args_.group() + r % args_.group(); }

    void write(int64_t r) const {
        const int64_t row = work_.sequence.row + token_ + r / args_.group();
        T* out = static_cast<T*>(args_.out) + row * args_.out_stride + query_head(r) * args_.head_dim;
        const float factor = share_of(args_, query_head(r), most_[r], sum(totals_[r]));
        for (int64_t dim = 0; dim < args_.head_dim; dim += kLanes)
            store_f32(out + dim, load<f32x16>(sums_ + r * args_.head_dim + dim) * factor);
    }

    void leave_partial(int64_t r) const {
        float* place = partial(args_, work_.partial_row + r / args_.group(), query_head(r), work_.split);
        std::copy(sums_ + r * args_.head_dim, sums_ + (r + 1) * args_.head_dim, place);
        place[args_.head_dim] = sum(totals_[r]);
        place[args_.head_dim + 1] = most_[r];
    }

    const AttentionArgs& args_;
    const Work& work_;
    int64_t head_, token_, count_;  // token_: first query token of the tile, in the sequence's queries
    T* q_;
    float* sums_;
    f32x16* totals_;
    float* most_;
    int64_t *from_, *to_;
};
