// Causal attention of all heads to one cached vector per token, of which the first part is the value too: see
// kernels/latent.py. The softmax is corrected tile by tile as larger scores turn up (FlashAttention-2, arXiv:2307.08691).
//
// A piece is one query row and up to eight of its heads, which share every vector that is read.

#include "dot.h"
#include "kernel.h"

namespace {

struct LatentArgs {
    const void* q;      // [rows, heads, width]
    const void* pages;  // [block, block_size, width]
    const int32_t *query_start, *kv_lengths, *block_tables;  // as in attention_work.h
    void* out;                                               // [rows, heads, latent]
    int64_t rows, sequences, table_stride;
    int64_t heads, width, latent, block_size;
    int64_t is_bf16;
    double scale;
};

constexpr int64_t kHeads = ::kDotRows;
constexpr int64_t kTile = 64;  // tokens; tiles begin at multiples of it whoever asks
constexpr float kNothing = -1e30f;

int64_t head_groups(const LatentArgs& args) { return (args.heads + kHeads - 1) / kHeads; }

int64_t pieces(const LatentArgs& args) { return args.rows * head_groups(args); }

template <class T>
class HeadGroup {
  public:
    HeadGroup(const LatentArgs& args, int64_t row, Range heads, char* scratch)
        : args_(args), count_(heads.last - heads.first),
          q_(static_cast<const T*>(args.q) + (row * args.heads + heads.first) * args.width),
          out_(static_cast<T*>(args.out) + (row * args.heads + heads.first) * args.latent),
          sums_(reinterpret_cast<float*>(scratch)) {
        std::fill_n(sums_, count_ * args.latent, 0.0f);
        std::fill_n(most_, kHeads, kNothing);
        std::fill_n(totals_, kHeads, 0.0f);
    }

    void attend(const int32_t* table, int64_t seen) {
        for (int64_t first = 0; first < seen; first += kTile) {
            const int64_t tokens = std::min(kTile, seen - first);
            for (int64_t i = 0; i < kTile; ++i) {  // beyond the last token it is repeated
                const int64_t token = first + std::min(i, tokens - 1);
                const int64_t slot = table[token / args_.block_size] * args_.block_size + token % args_.block_size;
                vectors_[i] = static_cast<const T*>(args_.pages) + slot * args_.width;
            }
            score(tokens);
            soften(tokens);
            add_values(tokens);
        }
    }

    void finish() const {
        for (int64_t head = 0; head < count_; ++head) {
            const float factor = 1.0f / totals_[head];
            for (int64_t c = 0; c < args_.latent; c += kLanes)
                store_f32(out_ + head * args_.latent + c, load<f32x16>(sums_ + head * args_.latent + c) * factor);
        }
    }

  private:
    void score(int64_t tokens) {
        const float scale = static_cast<float>(args_.scale);
        f32x16 outputs[kHeads];
        for (int64_t i = 0; i < tokens; i += kLanes) {
            dot_group(q_, count_, vectors_ + i, args_.width, outputs);
            const i32x16 token = i32x16{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} + (int32_t)i;
            for (int64_t head = 0; head < count_; ++head)
                store(scores_[head] + i, token < (int32_t)tokens ? outputs[head] * scale : splat(-INFINITY));
        }
    }

    // Scores become powers; earlier sums fade as much as the largest score has grown.
    void soften(int64_t tokens) {
        for (int64_t head = 0; head < count_; ++head) {
            f32x16 top = splat(most_[head]), total{};
            for (int64_t i = 0; i < tokens; i += kLanes) top = max(top, load<f32x16>(scores_[head] + i));
            const float most = largest(top);
            for (int64_t i = 0; i < tokens; i += kLanes) {
                const f32x16 power = exp(load<f32x16>(scores_[head] + i) - most);
                store(scores_[head] + i, power);
                total += power;
            }
            faded_[head] = exp(splat(most_[head] - most))[0];
            totals_[head] = totals_[head] * faded_[head] + sum(total);
            most_[head] = most;
        }
    }

    void add_values(int64_t tokens) {
        for (int64_t c = 0; c < args_.latent; c += kLanes) {
            f32x16 sums[kHeads];
            for (int64_t head = 0; head < count_; ++head)
                sums[head] = load<f32x16>(sums_ + head * args_.latent + c) * faded_[head];
            for (int64_t i = 0; i < tokens; ++i) {
                const f32x16 value = load_f32(vectors_[i] + c);
                for (int64_t head = 0; head < count_; ++head)
                    sums[head] = fma(value, splat(scores_[head][i]), sums[head]);
            }
            for (int64_t head = 0; head < count_; ++head) store(sums_ + head * args_.latent + c, sums[head]);
        }
    }

    const LatentArgs& args_;
    const int64_t count_;
    const T* const q_;
    T* const out_;
    float* const sums_;  // [count, latent]
    const T* vectors_[kTile];
    float scores_[kHeads][kTile];
    float most_[kHeads], totals_[kHeads], faded_[kHeads];
};

template <class T>
void attend(const LatentArgs& args, int64_t piece, char* scratch) {
    const int64_t groups = head_groups(args), row = piece / groups;
    int64_t sequence = 0;
    while (sequence < args.sequences && args.query_start[sequence + 1] <= row) ++sequence;
    if (sequence == args.sequences) return;
    HeadGroup<T> heads(args, row, share(args.heads, 1, piece % groups, groups), scratch);
    const int64_t later = args.query_start[sequence + 1] - row - 1;
    heads.attend(args.block_tables + sequence * args.table_stride, args.kv_lengths[sequence] - later);
    heads.finish();
}

void run(const LatentArgs& args, int64_t piece, char* scratch) {
    args.is_bf16 ? attend<bf16>(args, piece, scratch) : attend<float>(args, piece, scratch);
}

}  // namespace

TRIPTYCH_KERNEL(latent_attention, LatentArgs, pieces, run)
