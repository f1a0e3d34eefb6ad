// The experts of each token: the largest scores of its row of logits, and their weights.

#include "results.h"

namespace {

struct RouteArgs {
    const float* logits;      // [rows, experts]
    const float* correction;  // [experts], added for the choice; or null
    int32_t* ids;             // [rows, top_k]
    float* weights;           // [rows, top_k]
    int64_t rows, experts, top_k;
    int64_t sigmoid;  // else softmax
    int64_t renormalise, groups, top_groups;
    double scale;
};

constexpr int64_t kElementsPerPiece = 8192;

int64_t pieces(const RouteArgs& args) {
    return args.rows ? clamp(args.rows * args.experts / kElementsPerPiece, 1, clamp(args.rows, 1, 64)) : 0;
}

struct Best {
    float value;
    int64_t place;
};

// The largest of `count` values, of equal ones the first; place 0 where none is larger than -inf.
Best best_of(const float* values, int64_t count) {
    Largest largest;
    for (int64_t i = 0; i < count; i += kLanes) {
        const int64_t bytes = std::min(kLanes, count - i) * int64_t{sizeof(float)};
        largest(i, load_first<f32x16>(values + i, bytes), count);
    }
    Best best;
    largest.finish(&best.value, &best.place);
    return best;
}

// Returns the largest and lets it never be found again.
int64_t take_best(float* values, int64_t count) {
    const int64_t place = best_of(values, count).place;
    values[place] = -INFINITY;
    return place;
}

void softmax(const float* logits, float* scores, int64_t count) {
    const float most = best_of(logits, count).value;
    float total = 0;
    for (int64_t i = 0; i < count; i += kLanes) {
        const int64_t some = std::min(kLanes, count - i), bytes = some * int64_t{sizeof(float)};
        const f32x16 powers = exp(load_first<f32x16>(logits + i, bytes) - most);
        for (int64_t lane = 0; lane < some; ++lane) total += scores[i + lane] = powers[lane];
    }
    for (int64_t i = 0; i < count; ++i) scores[i] /= total;
}

void sigmoid(const float* logits, float* scores, int64_t count) {
    for (int64_t i = 0; i < count; i += kLanes) {
        const int64_t some = std::min(kLanes, count - i), bytes = some * int64_t{sizeof(float)};
        const f32x16 values = 1.0f / (exp(-load_first<f32x16>(logits + i, bytes)) + 1.0f);
        std::memcpy(scores + i, &values, bytes);
    }
}

// Leaves only the experts of the groups whose two best have the largest sums.
void keep_best_groups(const RouteArgs& args, float* choice, float* strengths) {
    const int64_t size = args.experts / args.groups;
    for (int64_t group = 0; group < args.groups; ++group) {
        float *first = choice + group * size, *best = first;
        for (float* p = first; p < first + size; ++p) best = *p > *best ? p : best;
        float second = size > 1 ? -INFINITY : 0;
        for (const float* p = first; p < first + size; ++p)
            if (p != best && *p > second) second = *p;
        strengths[group] = *best + second;
    }
    bool* kept = reinterpret_cast<bool*>(strengths + args.groups);
    std::fill_n(kept, args.groups, false);
    for (int64_t i = 0; i < args.top_groups; ++i) kept[take_best(strengths, args.groups)] = true;
    for (int64_t group = 0; group < args.groups; ++group)
        if (!kept[group]) std::fill_n(choice + group * size, size, -INFINITY);
}

void one_row(const RouteArgs& args, int64_t row, float* scratch) {
    const int64_t count = args.experts;
    float *scores = scratch, *choice = scratch + count;
    const float* logits = args.logits + row * count;
    args.sigmoid ? sigmoid(logits, scores, count) : softmax(logits, scores, count);
    for (int64_t i = 0; i < count; ++i) choice[i] = scores[i] + (args.correction ? args.correction[i] : 0);
    if (args.top_groups < args.groups) keep_best_groups(args, choice, choice + count);
    int32_t* ids = args.ids + row * args.top_k;
    float *weights = args.weights + row * args.top_k, total = 0;
    for (int64_t k = 0; k < args.top_k; ++k) {
        ids[k] = static_cast<int32_t>(take_best(choice, count));
        weights[k] = scores[ids[k]];
        total += weights[k];
    }
    const float factor = static_cast<float>(args.scale), divisor = args.renormalise ? total + 1e-20f : 1.0f;
    for (int64_t k = 0; k < args.top_k; ++k) weights[k] = weights[k] / divisor * factor;
}

void run(const RouteArgs& args, int64_t piece, char* scratch) {
    const Range rows = share(args.rows, 1, piece, pieces(args));
    for (int64_t row = rows.first; row < rows.last; ++row) one_row(args, row, reinterpret_cast<float*>(scratch));
}

}  // namespace

TRIPTYCH_KERNEL(route, RouteArgs, pieces, run)
