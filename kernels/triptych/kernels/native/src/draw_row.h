// A row of logits, what one look at it tells, and the weights of its tokens.

#pragma once

#include <algorithm>
#include <functional>
#include <utility>

#include "doubles.h"
#include "kernel.h"

namespace {

constexpr int64_t kMaxVocabulary = 1 << 18;  // as in sampling.py; what the scratch memory is enough for
constexpr int64_t kBuckets = 1024;           // of `Head`
constexpr int64_t kGroup = 64;               // tokens of which `Scan` keeps the largest
constexpr int64_t kChunk = 64;               // vectors of tokens whose weights are summed before they are cumulated

// Memory of one row's draw.
struct Scratch {
    double weights[kMaxVocabulary];             // by token
    uint32_t tokens[kMaxVocabulary];            // of one bucket
    uint32_t firsts[kMaxVocabulary / kLanes];   // of vectors of tokens
    float maxima[kMaxVocabulary / kGroup + kGroup * kLanes];
    double chunks[kMaxVocabulary / kLanes / kChunk];
    double buckets[kBuckets];
};
static_assert(sizeof(Scratch) <= kScratchBytes);

inline float rounded_up(double value) {
    const float near = static_cast<float>(value);
    return near < value ? std::nextafter(near, INFINITY) : near;
}

inline float rounded_down(double value) { return -rounded_up(-value); }

// The logits of a row.
struct Row {
    const float* x;
    int64_t size;

    f32x16 at(int64_t i) const {  // −inf beyond the end
        if (i + kLanes <= size) return load<f32x16>(x + i);
        float rest[kLanes];
        for (int64_t j = 0; j < kLanes; ++j) rest[j] = i + j < size ? x[i + j] : -INFINITY;
        return load<f32x16>(rest);
    }
};

// What one look at a row tells.
struct Scan {
    float peak = -INFINITY, lowest = INFINITY;  // lowest above −inf
    int64_t groups = 0;
    float* maxima;  // of `groups` disjoint groups of tokens

    Scan(const Row& row, float* maxima) : maxima(maxima) {
        f32x16 low = splat(INFINITY);
        for (int64_t i = 0; i < row.size; groups += kLanes) {
            f32x16 high = splat(-INFINITY);
            for (const int64_t end = i + kGroup * kLanes; i < end && i < row.size; i += kLanes) {
                const f32x16 x = row.at(i);
                high = max(x, high);
                low = min(x > splat(-INFINITY) ? x : low, low);
            }
            store(maxima + groups, high);
            peak = std::max(peak, largest(high));
        }
        lowest = -largest(-low);
    }

    // At least k tokens are as large as this: so many groups have one.
    float bound(int64_t k) {
        if (k > groups) return -INFINITY;
        std::nth_element(maxima, maxima + k - 1, maxima + groups, std::greater<float>());
        return maxima[k - 1];
    }
};

struct Weigh {
    double peak, factor;

    Weigh(float peak, double temperature) : peak(peak), factor(std::min(1 / temperature, 1e308)) {}

    f64x8 operator()(f64x8 x) const { return exp_negative((x - peak) * factor); }
    double operator()(float x) const { return (*this)(splat(static_cast<double>(x)))[0]; }
    Doubles operator()(f32x16 x) const {
        const Doubles wide = widen(x);
        return {(*this)(wide.low), (*this)(wide.high)};
    }
};

// The tokens that filters keep: those of a larger logit than `logit`, and of an equal one those up to `last`.
class Cut {
  public:
    explicit Cut(float logit, int64_t last = kMaxVocabulary)
        : logit_(logit), above_(std::nextafter(logit, INFINITY)), last_(last) {}

    float logit() const { return logit_; }

    bool keeps(float x, int64_t token) const { return x >= (token <= last_ ? logit_ : above_); }

    TRIPTYCH_INLINE i32x16 keeps(f32x16 x, int64_t first) const {
        if (first + kLanes <= last_ + 1) return x >= splat(logit_);
        if (first > last_) return x >= splat(above_);
        float least[kLanes];
        for (int64_t i = 0; i < kLanes; ++i) least[i] = first + i <= last_ ? logit_ : above_;
        return x >= load<f32x16>(least);
    }

  private:
    float logit_, above_;  // `above_` is the next larger number
    int64_t last_;
};

}  // namespace
