// A random token per row of logits: the filters top_k, top_p and min_p, and the inverse of the cumulated weights.
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
