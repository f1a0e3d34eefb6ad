// The likeliest tokens of a row, as many as the filters keep.
//
// All three filters keep a head of the tokens in descending order, and only the place where a head ends has to be
// known exactly. So nothing is sorted but the tokens near such a place: the others fall into buckets of like logits,
// each with its number of tokens and their weight. Of equal logits the first comes first.

#pragma once

#include "draw_row.h"

namespace {

// The tokens from `floor` to `peak`, the largest first, of which filters take away the end.
class Head {
  public:
    Head(const Row& row, const Weigh& weigh, float floor, float peak, Scratch& scratch)
        : row_(row), weigh_(weigh), floor_(floor), peak_(peak), scratch_(scratch) {
        const float range = peak - floor;
        per_bucket_ = range > 0 ? kBuckets / range : 0;
        std::fill_n(scratch.mass, kBuckets, 0.0);
        std::fill_n(scratch.count, kBuckets, 0);
        for (int64_t i = 0; i < row.size; i += kLanes) fill(row.at(i));
    }

    double mass() const {
        double total = 0;
        for (int64_t b = 0; b < used_; ++b) total += scratch_.mass[b];
        return total;
    }

    void keep_count(int64_t k) {
        int64_t before = 0;
        for (int64_t b = 0; b < used_; before += scratch_.count[b++])
            if (before + scratch_.count[b] >= k)
                return end_in(b, [&](int64_t inside, double, float) { return before + inside < k; });
    }

    // Keeps tokens before which there is less mass than this.
    void keep_mass(double limit) {
        double before = 0;
        for (int64_t b = 0; b < used_; before += scratch_.mass[b++])
            if (before + scratch_.mass[b] >= limit)
                return end_in(b, [&](int64_t, double inside, float) { return before + inside < limit; });
    }

    void keep_from(float cut) {
        const int64_t b = cut > floor_ ? bucket_of(splat(cut))[0] : used_;
        if (b < used_) end_in(b, [&](int64_t, double, float x) { return x >= cut; });
    }

    // The token before which this mass is; by rounding there may be none, then the last one.
    int64_t at(double target) {
        double before = 0, end = 0;
        int64_t bucket = 0;
        for (int64_t b = 0; b < used_ && end <= target; ++b) {
            if (scratch_.mass[b] == 0) continue;
            bucket = b;
            before = end;
            end += scratch_.mass[b];
        }
        open(bucket);
        int64_t token = token_at(0);
        for (int64_t i = 0; i < scratch_.count[bucket] && before <= target; ++i) {
            const double weight = weigh_(row_.x[token_at(i)]);
            if (weight > 0) token = token_at(i);
            before += weight;
        }
        return token;
    }

  private:
    TRIPTYCH_INLINE i32x16 bucket_of(f32x16 x) const {  // a larger logit is never in a later bucket
        const f32x16 place = min((splat(peak_) - x) * splat(per_bucket_), splat(static_cast<float>(kBuckets - 1)));
        return __builtin_convertvector(place, i32x16);
    }

    TRIPTYCH_INLINE void fill(f32x16 x) {
        uint32_t chosen = bits(x >= splat(floor_));
        if (!chosen) return;
        int32_t buckets[kLanes];
        double weights[kLanes];
        store(buckets, bucket_of(x));
        store(weights, weigh_(x));
        for (; chosen; chosen &= chosen - 1) {
            const int lane = __builtin_ctz(chosen);
            scratch_.mass[buckets[lane]] += weights[lane];
            ++scratch_.count[buckets[lane]];
        }
    }

    // Ends the head at the first token of bucket b that `stays` refuses: called with how many tokens of the bucket
    // come before it, their mass, and its logit.
    template <class Stays>
    void end_in(int64_t b, Stays stays) {
        open(b);
        int64_t kept = 0;
        double mass = 0;
        for (; kept < scratch_.count[b]; ++kept) {
            const float x = row_.x[token_at(kept)];
            if (!stays(kept, mass, x)) break;
            mass += weigh_(x);
        }
        scratch_.count[b] = kept;
        scratch_.mass[b] = mass;
        used_ = b + 1;
    }

    // Puts the tokens of bucket b in order.
    void open(int64_t b) {
        if (b == opened_) return;
        opened_ = b;
        uint64_t* end = scratch_.ranks;
        for (int64_t i = 0; i < row_.size; i += kLanes) {
            const f32x16 x = row_.at(i);
            uint32_t chosen = bits((x >= splat(floor_)) & (bucket_of(x) == splat(static_cast<int32_t>(b))));
            for (; chosen; chosen &= chosen - 1) *end++ = rank(i + __builtin_ctz(chosen));
        }
        if (!std::is_sorted(scratch_.ranks, end)) std::sort(scratch_.ranks, end);
    }

    // Rises as logits fall, and with the token among equal logits.
    uint64_t rank(int64_t token) const {
        const float x = row_.x[token] + 0.0f;  // −0 is 0
        uint32_t pattern;
        std::memcpy(&pattern, &x, 4);
        const uint32_t falling = pattern >> 31 ? pattern : ~pattern & 0x7fffffff;
        return static_cast<uint64_t>(falling) << 32 | static_cast<uint64_t>(token);
    }

    int64_t token_at(int64_t i) const { return static_cast<int64_t>(scratch_.ranks[i] & 0xffffffff); }

    const Row& row_;
    const Weigh& weigh_;
    const float floor_, peak_;
    Scratch& scratch_;
    float per_bucket_;
    int64_t used_ = kBuckets, opened_ = -1;
};

}  // namespace
