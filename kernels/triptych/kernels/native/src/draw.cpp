// A random token per row of logits: the filters top_k, top_p and min_p, and the inverse of the cumulated weights.
//
// All three filters keep a head of the tokens in descending order, and only the place where a head ends has to be
// known exactly. So nothing is sorted but the tokens near such a place: the others fall into buckets of like logits,
// each with its number of tokens and their weight. Of equal logits the first comes first.
//
// The weight of a logit x is exp((x − peak) / temperature), in float64.

#include <algorithm>
#include <functional>

#include "doubles.h"
#include "kernel.h"

namespace {

struct DrawArgs {
    const float* logits;          // [rows, vocabulary]
    const double* temperature;    // [rows], 0 takes the largest
    const int64_t* top_k;         // [rows], 0 keeps all
    const double *top_p, *min_p;  // [rows], 1 and 0 keep all
    const double* u;              // [rows], in [0, 1)
    int64_t* out;                 // [rows]
    int64_t rows, vocabulary;
};

constexpr int64_t kMaxVocabulary = 1 << 18;  // as in sampling.py; what the scratch memory is enough for
constexpr int64_t kBuckets = 1024;
constexpr int64_t kGroup = 64;     // tokens of which `Scan` keeps the largest
constexpr int64_t kChunk = 1024;   // tokens whose weights are summed before they are cumulated
constexpr double kNoWeight = 708;  // logits this many temperatures below the peak weigh nothing

// Memory of one row's draw.
struct Scratch {
    uint64_t ranks[kMaxVocabulary];
    float maxima[kMaxVocabulary / kGroup + kGroup * kLanes];
    double chunks[kMaxVocabulary / kChunk + 1];
    double mass[kBuckets];
    int64_t count[kBuckets];
};
static_assert(sizeof(Scratch) <= kScratchBytes);

float rounded_up(double value) {
    const float near = static_cast<float>(value);
    return near < value ? std::nextafter(near, INFINITY) : near;
}

float rounded_down(double value) { return -rounded_up(-value); }

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

double mass_of(const Row& row, const Weigh& weigh, float cut, int64_t first, int64_t last) {
    f64x8 low{}, high{};
    for (int64_t i = first; i < last; i += kLanes) {
        const f32x16 x = row.at(i);
        const Doubles weights = weigh(x >= splat(cut) ? x : splat(-INFINITY));
        low += weights.low;
        high += weights.high;
    }
    return sum(low + high);
}

// The token at share u of the weights cumulated in the order of the vocabulary, of logits from `cut` on.
int64_t draw_in_order(const Row& row, const Weigh& weigh, float cut, double u, Scratch& scratch) {
    double total = 0;
    for (int64_t i = 0; i < row.size; i += kChunk)
        total += scratch.chunks[i / kChunk] = mass_of(row, weigh, cut, i, std::min(i + kChunk, row.size));
    const double target = u * total;
    double before = 0, end = 0;
    int64_t chunk = 0;  // the first that reaches beyond the target, or by rounding the last that weighs anything
    for (int64_t i = 0; i * kChunk < row.size && end <= target; ++i) {
        if (scratch.chunks[i] == 0) continue;
        chunk = i;
        before = end;
        end += scratch.chunks[i];
    }
    int64_t token = chunk * kChunk;
    for (int64_t i = chunk * kChunk; i < std::min((chunk + 1) * kChunk, row.size); ++i) {
        const double weight = row.x[i] >= cut ? weigh(row.x[i]) : 0;
        if (weight == 0) continue;
        token = i;
        before += weight;
        if (before > target) break;
    }
    return token;
}

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

int64_t draw(const DrawArgs& args, int64_t index, Scratch& scratch) {
    const Row row{args.logits + index * args.vocabulary, args.vocabulary};
    const double temperature = args.temperature[index], top_p = args.top_p[index], u = args.u[index];
    const int64_t top_k = args.top_k[index];
    Scan scan(row, scratch.maxima);
    const float peak = scan.peak;
    if (!(temperature > 0) || !std::isfinite(peak)) {
        const int64_t token = std::find(row.x, row.x + row.size, peak) - row.x;
        return token < row.size ? token : 0;
    }
    const Weigh weigh(peak, temperature);
    const float cut = std::min(rounded_up(peak + temperature * std::log(args.min_p[index])), peak);
    const bool counts = 0 < top_k && top_k < row.size;
    if (!counts && top_p >= 1) return draw_in_order(row, weigh, cut, u, scratch);

    // Below the floor there is nothing that the filters could keep.
    double mass = 0;
    float floor = std::max(scan.lowest, rounded_down(peak - kNoWeight * temperature));
    if (counts) {
        floor = std::max(floor, scan.bound(top_k));
    } else {
        mass = mass_of(row, weigh, floor, 0, row.size);
        // All tokens of less than the average weight of what top_p leaves out are left out: half of it, for rounding.
        const double least = (1 - top_p) * mass / static_cast<double>(row.size) / 2;
        floor = std::max(floor, rounded_down(peak + temperature * std::log(least)));
    }
    Head head(row, weigh, floor, peak, scratch);
    if (counts) head.keep_count(top_k);
    if (top_p < 1) head.keep_mass(top_p * (counts ? head.mass() : mass));
    head.keep_from(cut);
    return head.at(u * head.mass());
}

int64_t pieces(const DrawArgs& args) { return args.rows; }

void run(const DrawArgs& args, int64_t piece, char* scratch) {
    args.out[piece] = draw(args, piece, *reinterpret_cast<Scratch*>(scratch));
}

}  // namespace

TRIPTYCH_KERNEL(draw_token, DrawArgs, pieces, run)
