// The likeliest tokens of a row, as many as top_k and top_p keep.
//
// Both keep a head of the tokens in descending order, and only the place where it ends has to be known. So tokens fall
// into buckets of like logits, of which the number of tokens or their weight is summed, and only in the bucket where
// the head ends is that place searched for. Of equal logits the first comes first.

#pragma once

#include "draw_row.h"

namespace {

// The tokens from `floor` to `peak`, of which filters take away the least. Whoever asks for their mass, or goes by it,
// has put their weights into the scratch.
class Head {
  public:
    Head(const Row& row, float floor, float peak, Scratch& scratch)
        : row_(row),
          peak_(peak),
          per_bucket_(peak > floor ? kBuckets / (peak - floor) : 0),
          scratch_(scratch),
          cut_(floor) {
        for (int64_t i = 0; i < row.size; i += kLanes)
            if (bits(row.at(i) >= splat(floor))) scratch.firsts[vectors_++] = static_cast<uint32_t>(i);
    }

    const Cut& cut() const { return cut_; }

    // Those that have its tokens; their first tokens are in the scratch.
    int64_t vectors() const { return vectors_; }

    // Keeps tokens before which there are less than this.
    void keep_count(int64_t count) {
        keep(static_cast<double>(count), [](int64_t) { return 1.0; });
    }

    // Keeps tokens before which there is less mass than this.
    void keep_mass(double mass) {
        keep(mass, [&](int64_t token) { return scratch_.weights[token]; });
    }

    // Puts the weights of its tokens into the scratch; returns their sum.
    double weigh(const Weigh& weigh) {
        f64x8 low{}, high{};
        const int64_t before = std::exchange(vectors_, 0);
        for (int64_t v = 0; v < before; ++v) {
            const int64_t i = scratch_.firsts[v];
            const f32x16 x = row_.at(i);
            const i32x16 kept = cut_.keeps(x, i);
            if (!bits(kept)) continue;
            const Doubles weights = masked(kept, weigh(x));
            store(scratch_.weights + i, weights);
            low += weights.low;
            high += weights.high;
            scratch_.firsts[vectors_++] = static_cast<uint32_t>(i);
        }
        return sum(low + high);
    }

  private:
    TRIPTYCH_INLINE i32x16 bucket_of(f32x16 x) const {  // a larger logit is never in a later bucket
        const f32x16 place = min((splat(peak_) - x) * splat(per_bucket_), splat(static_cast<float>(kBuckets - 1)));
        return __builtin_convertvector(place, i32x16);
    }

    template <class Amount>
    void keep(double limit, Amount amount) {
        fill(amount);
        double before = 0;
        for (int64_t b = 0; b < kBuckets; before += scratch_.buckets[b++])
            if (before + scratch_.buckets[b] >= limit) return end_in(b, limit - before, amount);
    }

    template <class Amount>
    void fill(Amount amount) {
        std::fill_n(scratch_.buckets, kBuckets, 0.0);
        for (int64_t v = 0; v < vectors_; ++v) {
            const int64_t i = scratch_.firsts[v];
            const f32x16 x = row_.at(i);
            int32_t buckets[kLanes];
            store(buckets, bucket_of(x));
            for (uint32_t chosen = bits(cut_.keeps(x, i)); chosen; chosen &= chosen - 1) {
                const int lane = __builtin_ctz(chosen);
                scratch_.buckets[buckets[lane]] += amount(i + lane);
            }
        }
    }

    // Ends the head in bucket b, at the first token before which those of the bucket amount to the limit.
    template <class Amount>
    void end_in(int64_t b, double limit, Amount amount) {
        const auto precedes = [&](uint32_t one, uint32_t other) {
            const float x = row_.x[one], y = row_.x[other];
            return x > y || (x == y && one < other);
        };
        uint32_t *first = scratch_.tokens, *last = open(b);
        double before = 0;
        while (last - first > kSorted) {
            uint32_t* middle = first + (last - first) / 2;
            std::nth_element(first, middle, last, precedes);
            double half = before;
            for (const uint32_t* token = first; token < middle; ++token) half += amount(*token);
            (half >= limit ? last : first) = middle;
            if (half < limit) before = half;
        }
        std::sort(first, last, precedes);
        for (; first < last && before < limit; ++first) before += amount(*first);
        if (first > scratch_.tokens) cut_ = Cut(row_.x[first[-1]], first[-1]);
    }

    // Lists the tokens of bucket b; returns their end.
    uint32_t* open(int64_t b) {
        uint32_t* end = scratch_.tokens;
        for (int64_t v = 0; v < vectors_; ++v) {
            const int64_t i = scratch_.firsts[v];
            const f32x16 x = row_.at(i);
            uint32_t chosen = bits(cut_.keeps(x, i) & (bucket_of(x) == splat(static_cast<int32_t>(b))));
            for (; chosen; chosen &= chosen - 1) *end++ = static_cast<uint32_t>(i + __builtin_ctz(chosen));
        }
        return end;
    }

    static constexpr int64_t kSorted = 32;

    const Row& row_;
    const float peak_, per_bucket_;
    Scratch& scratch_;
    Cut cut_;
    int64_t vectors_ = 0;
};

}  // namespace
