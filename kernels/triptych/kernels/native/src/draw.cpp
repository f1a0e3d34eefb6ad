// A random token per row of logits: the filters top_k, top_p and min_p, and the inverse of the weights that they leave,
// cumulated in the order of the vocabulary. Logits that differ by rounding then differ by that much in the weights
// before a token; in the order of the weights themselves they would change places.
//
// The weight of a logit x is exp((x − peak) / temperature), in float64.

#include "draw_head.h"

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

constexpr double kNoWeight = 708;  // logits this many temperatures below the peak weigh nothing

// Weights of the logits from `least` on, worked out whenever they are asked for.
struct Computed {
    const Row& row;
    const Weigh& weigh;
    const float least;

    int64_t vectors() const { return (row.size + kLanes - 1) / kLanes; }
    int64_t first(int64_t vector) const { return vector * kLanes; }
    TRIPTYCH_INLINE Doubles at(int64_t vector) const {
        const f32x16 x = row.at(vector * kLanes);
        return weigh(x >= splat(least) ? x : splat(-INFINITY));
    }
};

// Weights in memory, of the tokens that a cut keeps, all of them in some vectors.
struct Stored {
    const Row& row;
    const Scratch& scratch;
    const Cut cut;
    const int64_t count;

    int64_t vectors() const { return count; }
    int64_t first(int64_t vector) const { return scratch.firsts[vector]; }
    TRIPTYCH_INLINE Doubles at(int64_t vector) const {
        const int64_t i = first(vector);
        return masked(cut.keeps(row.at(i), i), load<Doubles>(scratch.weights + i));
    }
};

// The token at share u of the weights, cumulated in the order of the vocabulary.
template <class Weights>
int64_t draw_in_order(const Weights& weights, double u, double* chunks) {
    const int64_t size = weights.vectors();
    double total = 0;
    for (int64_t v = 0; v < size; v += kChunk) {
        f64x8 low{}, high{};
        for (int64_t i = v; i < std::min(v + kChunk, size); ++i) {
            const Doubles some = weights.at(i);
            low += some.low;
            high += some.high;
        }
        total += chunks[v / kChunk] = sum(low + high);
    }
    const double target = u * total;
    double before = 0, end = 0;
    int64_t chunk = 0;  // the first that reaches beyond the target, or by rounding the last that weighs anything
    for (int64_t i = 0; i * kChunk < size && end <= target; ++i) {
        if (chunks[i] == 0) continue;
        chunk = i;
        before = end;
        end += chunks[i];
    }
    int64_t token = 0;
    for (int64_t v = chunk * kChunk; v < std::min((chunk + 1) * kChunk, size); ++v) {
        double some[kLanes];
        store(some, weights.at(v));
        for (int64_t i = 0; i < kLanes; ++i) {
            if (some[i] == 0) continue;
            token = weights.first(v) + i;
            before += some[i];
            if (before > target) return token;
        }
    }
    return token;
}

// What top_p alone keeps.
Stored nucleus(const Row& row, const Weigh& weigh, double top_p, float floor, Scratch& scratch) {
    f64x8 low{}, high{};
    for (int64_t i = 0; i < row.size; i += kLanes) {
        const Doubles weights = weigh(row.at(i));
        store(scratch.weights + i, weights);
        low += weights.low;
        high += weights.high;
    }
    const double mass = sum(low + high);
    // All tokens of less than the average weight of what top_p leaves out are left out: half of it, for rounding.
    const double least = (1 - top_p) * mass / static_cast<double>(row.size) / 2;
    floor = std::max(floor, rounded_down(weigh.peak + std::log(least) / weigh.factor));
    Head head(row, floor, weigh.peak, scratch);
    head.keep_mass(top_p * mass);
    return {row, scratch, head.cut(), head.vectors()};
}

// What top_k keeps, and top_p of that.
Stored likeliest(const Row& row, const Weigh& weigh, int64_t top_k, double top_p, float floor, Scratch& scratch) {
    Head head(row, floor, weigh.peak, scratch);
    head.keep_count(top_k);
    const double mass = head.weigh(weigh);
    if (top_p < 1) head.keep_mass(top_p * mass);
    return {row, scratch, head.cut(), head.vectors()};
}

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
    const float least = std::min(rounded_up(peak + temperature * std::log(args.min_p[index])), peak);
    const bool counts = 0 < top_k && top_k < row.size;
    if (!counts && top_p >= 1) return draw_in_order(Computed{row, weigh, least}, u, scratch.chunks);

    // Below the floor there is nothing that the filters could keep.
    const float floor = std::max(scan.lowest, rounded_down(peak - kNoWeight * temperature));
    const Stored head = counts ? likeliest(row, weigh, top_k, top_p, std::max(floor, scan.bound(top_k)), scratch)
                               : nucleus(row, weigh, top_p, floor, scratch);
    const Cut cut = head.cut.logit() >= least ? head.cut : Cut(least);
    return draw_in_order(Stored{row, scratch, cut, head.count}, u, scratch.chunks);
}

int64_t pieces(const DrawArgs& args) { return args.rows; }

void run(const DrawArgs& args, int64_t piece, char* scratch) {
    args.out[piece] = draw(args, piece, *reinterpret_cast<Scratch*>(scratch));
}

}  // namespace

TRIPTYCH_KERNEL(draw_token, DrawArgs, pieces, run)
