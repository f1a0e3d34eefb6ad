// Attention of new tokens to the paged cache, prompt chunks and decode steps in one call (arXiv:2309.06180), with
// softmax over tiles of tokens (FlashAttention-2, arXiv:2307.08691), long contexts of few queries split over tokens.

#include <new>

#include "attention_head.h"

namespace {

int64_t attend_pieces(const AttentionArgs& args) { return count_pieces(args); }

template <class T>
void attend(const AttentionArgs& args, const Work& work, char* scratch) {
    auto* heads = reinterpret_cast<HeadRows<T>*>(scratch);
    const int64_t count = work.last_head - work.head;
    scratch += kMaxHeads * sizeof(HeadRows<T>);
    for (int64_t i = 0; i < count; ++i) new (heads + i) HeadRows<T>(args, work, work.head + i, scratch);
    // Tiles end at multiples of kTile whoever asks, so that a token's result is the same in any chunk of a prompt.
    const int64_t last = heads[0].last();
    for (int64_t first = heads[0].first(), next; first < last; first = next) {
        next = std::min((first / kTile + 1) * kTile, last);
        for (int64_t i = 0; i < count; ++i) heads[i].attend(first, next, scratch);
    }
    for (int64_t i = 0; i < count; ++i) heads[i].finish();
}

void attend_run(const AttentionArgs& args, int64_t piece, char* scratch) {
    const Work work = find_work(args, piece);
    args.is_bf16 ? attend<bf16>(args, work, scratch) : attend<float>(args, work, scratch);
}

// ---- merging what the splits left ----

int64_t merge_pieces(const AttentionArgs& args) {
    int64_t pieces = 0;
    for (int64_t i = 0; i < args.sequences; ++i) pieces += Sequence(args, i).splits > 1;
    return pieces;
}

template <class T>
void merge_head(const AttentionArgs& args, int64_t head, const float* first, int64_t splits, T* out) {
    const int64_t width = partial_width(args), dims = args.head_dim;
    float most = kNothing, total = 0, weights[kMaxSplits];
    for (int64_t s = 0; s < splits; ++s) most = std::max(most, first[s * width + dims + 1]);
    for (int64_t s = 0; s < splits; ++s) {
        const float* part = first + s * width;
        weights[s] = Arithmetic<T>::power(splat((part[dims + 1] - most) * exponent_scale<T>(args)))[0];
        total += part[dims] * weights[s];
    }
    const float factor = share_of(args, head, most, total);
    for (int64_t dim = 0; dim < dims; dim += kLanes) {
        f32x16 sums{};
        for (int64_t s = 0; s < splits; ++s)
            sums = fma(load<f32x16>(first + s * width + dim), splat(weights[s]), sums);
        store_f32(out + dim, sums * factor);
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
                        args, head, partial(args, partial_row + t, head, 0), sequence.splits,
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
