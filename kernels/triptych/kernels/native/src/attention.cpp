// Attention of new tokens to the paged cache, prompt chunks and decode steps in one call (arXiv:2309.06180), with
// softmax over tiles of tokens (FlashAttention-2, arXiv:2307.08691) and long contexts of few queries split over tokens.

#include <algorithm>
#include <initializer_list>

#include "attention_tile.h"
#include "attention_work.h"

namespace {

constexpr int64_t kPartialExtras = 2;  // after the sums: total, largest score

int64_t partial_width(const AttentionArgs& args) { return args.head_dim + kPartialExtras; }

float* partial(const AttentionArgs& args, int64_t row, int64_t head, int64_t split) {
    return args.partials + ((row * args.heads + head) * kMaxSplits + split) * partial_width(args);
}

template <class T>
float exponent_scale(const AttentionArgs& args) {
    return static_cast<float>(args.softcap != 0 ? 1.0 : args.scale) * Arithmetic<T>::kBase;
}

// The query rows of one tile and key head. A row is a query token and one of the heads that share the key head.
template <class T>
class Tile {
  public:
    Tile(const AttentionArgs& args, const Work& work, int64_t head, char* scratch)
        : args_(args), work_(work), head_(head), token_(work.tile * args.tile_tokens()) {
        const Sequence& sequence = work.sequence;
        count_ = std::min(args.tile_tokens(), sequence.queries - token_) * args.group();
        begin_ = sequence.begin + work.split * sequence.split_tokens;
        end_ = std::min(begin_ + sequence.split_tokens, sequence.length);
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
        scratch_ = scratch;
        prepare();
    }

    void attend() {
        const Scoring scoring{
            exponent_scale<T>(args_), static_cast<float>(args_.softcap),
            args_.softcap != 0 ? static_cast<float>(args_.scale / args_.softcap) : 0
        };
        Columns<T> columns;
        columns.key_stride = args_.block_size;
        columns.head_dim = args_.head_dim;
        // Tiles begin at multiples of kTile whoever asks, so that a token's result is the same in any chunk.
        for (int64_t first = from_[0] / kTile * kTile; first < to_[count_ - 1]; first += kTile) {
            columns.first = std::max(first, from_[0] / kLanes * kLanes);
            columns.stop = std::min(first + kTile, to_[count_ - 1]);
            locate(columns);
            const int64_t blocks = (count_ + kRows - 1) / kRows;
            for (int64_t block = 0; block < blocks; ++block) attend_rows(share(count_, 1, block, blocks), columns, scoring);
        }
    }

    void finish() {
        for (int64_t r = 0; r < count_; ++r) work_.sequence.splits > 1 ? leave_partial(r) : write(r);
    }

  private:
    void prepare() {
        const Sequence& sequence = work_.sequence;
        const int64_t group = args_.group(), width = group * args_.head_dim;
        for (int64_t t = 0; t < count_ / group; ++t) {
            const T* source = static_cast<const T*>(args_.q) + (sequence.row + token_ + t) * args_.q_stride + head_ * width;
            std::copy(source, source + width, q_ + t * width);
        }
        std::fill(sums_, sums_ + count_ * args_.head_dim, 0.0f);
        for (int64_t r = 0; r < count_; ++r) {
            const int64_t seen = sequence.length - sequence.queries + token_ + r / group + 1;
            totals_[r] = f32x16{};
            most_[r] = kNothing;
            from_[r] = std::max(begin_, args_.window ? seen - args_.window : 0);
            to_[r] = std::min(end_, seen);
        }
    }

    void locate(Columns<T>& columns) const {
        const Pages<const T> pages{
            static_cast<const T*>(args_.pages), args_.kv_heads, args_.block_size, args_.head_dim
        };
        const int32_t* table = args_.block_tables + work_.sequence.index * args_.table_stride;
        int64_t column = 0;
        for (int64_t token = columns.first; token < columns.stop; token += kLanes, ++column) {
            const int64_t block = table[token / args_.block_size], offset = token % args_.block_size;
            columns.keys[column] = pages.keys(block, head_) + pages.key_at(offset, 0);
            columns.values[column] = pages.values(block, head_) + pages.value_at(offset, 0);
        }
    }

    void attend_rows(Range range, const Columns<T>& columns, const Scoring& scoring) {
        const int64_t r = range.first, offset = r * args_.head_dim;
        const Rows<T> rows{q_ + offset, sums_ + offset, totals_ + r, most_ + r, from_ + r, to_ + r};
        switch (range.last - r) {
            case 1: return attend_tile<T, 1>(rows, columns, scoring, scratch_);
            case 2: return attend_tile<T, 2>(rows, columns, scoring, scratch_);
            case 3: return attend_tile<T, 3>(rows, columns, scoring, scratch_);
            case 4: return attend_tile<T, 4>(rows, columns, scoring, scratch_);
#if defined(__AVX512F__)
            case 5: return attend_tile<T, 5>(rows, columns, scoring, scratch_);
            case 6: return attend_tile<T, 6>(rows, columns, scoring, scratch_);
#endif
        }
    }

    int64_t query_head(int64_t r) const { return head_ * args_.group() + r % args_.group(); }

    void write(int64_t r) const {
        const int64_t row = work_.sequence.row + token_ + r / args_.group();
        T* out = static_cast<T*>(args_.out) + row * args_.out_stride + query_head(r) * args_.head_dim;
        const float factor = 1.0f / sum(totals_[r]);
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
    int64_t head_, token_, count_, begin_, end_;  // token_: first query token of the tile, in the sequence's queries
    T* q_;
    float* sums_;
    f32x16* totals_;
    float* most_;
    int64_t *from_, *to_;
    char* scratch_;
};

int64_t attend_pieces(const AttentionArgs& args) { return count_pieces(args); }

void attend_run(const AttentionArgs& args, int64_t piece, char* scratch) {
    const Work work = find_work(args, piece);
    const auto compute = [&]<class T>(T*) {
        for (int64_t head = work.head; head < work.last_head; ++head) {
            Tile<T> tile(args, work, head, scratch);
            tile.attend();
            tile.finish();
        }
    };
    args.is_bf16 ? compute(static_cast<bf16*>(nullptr)) : compute(static_cast<float*>(nullptr));
}

// ---- merging what the splits left ----

int64_t merge_pieces(const AttentionArgs& args) {
    int64_t pieces = 0;
    for (int64_t i = 0; i < args.sequences; ++i) pieces += Sequence(args, i).splits > 1;
    return pieces;
}

template <class T>
void merge_head(const AttentionArgs& args, const float* first, int64_t splits, T* out) {
    const int64_t width = partial_width(args), dims = args.head_dim;
    float most = kNothing, total = 0, weights[kMaxSplits];
    for (int64_t s = 0; s < splits; ++s) most = std::max(most, first[s * width + dims + 1]);
    for (int64_t s = 0; s < splits; ++s) {
        const float* part = first + s * width;
        weights[s] = Arithmetic<T>::power(splat((part[dims + 1] - most) * exponent_scale<T>(args)))[0];
        total += part[dims] * weights[s];
    }
    for (int64_t dim = 0; dim < dims; dim += kLanes) {
        f32x16 sums{};
        for (int64_t s = 0; s < splits; ++s) sums = fma(load<f32x16>(first + s * width + dim), splat(weights[s]), sums);
        store_f32(out + dim, sums * (1.0f / total));
    }
}

template <class T>
void merge(const AttentionArgs& args, int64_t piece) {
    int64_t partial_row = 0;
    for (int64_t i = 0;; ++i) {
        const Sequence sequence(args, i);
        if (sequence.splits == 1) continue;
        if (piece-- == 0) {
            for (int64_t t = 0; t < sequence.queries; ++t)
                for (int64_t head = 0; head < args.heads; ++head)
                    merge_head(
                        args, partial(args, partial_row + t, head, 0), sequence.splits,
                        static_cast<T*>(args.out) + (sequence.row + t) * args.out_stride + head * args.head_dim
                    );
            return;
        }
        partial_row += sequence.queries;
    }
}

void merge_run(const AttentionArgs& args, int64_t piece, char*) {
    args.is_bf16 ? merge<bf16>(args, piece) : merge<float>(args, piece);
}

}  // namespace

TRIPTYCH_KERNEL(attention, AttentionArgs, attend_pieces, attend_run)
TRIPTYCH_KERNEL(attention_merge, AttentionArgs, merge_pieces, merge_run)
