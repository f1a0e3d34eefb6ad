// The largest of partial results: ids[row] is the id of the largest of values[:, row], the lowest of equal ones.

#include "kernel.h"

namespace {

struct MergeArgs {
    const float* values;      // [parts, rows]
    const int64_t* ids;       // [parts, rows]
    float* largest;           // [rows]
    int64_t* places;          // [rows]
    int64_t rows, parts;
};

int64_t pieces(const MergeArgs& args) { return args.rows > 0; }

void run(const MergeArgs& args, int64_t, char*) {
    for (int64_t row = 0; row < args.rows; ++row) {
        int64_t best = row;  // parts are in the order of the ids
        for (int64_t i = row; i < args.parts * args.rows; i += args.rows)
            if (args.values[i] > args.values[best]) best = i;
        args.largest[row] = args.values[best];
        args.places[row] = args.ids[best];
    }
}

}  // namespace

TRIPTYCH_KERNEL(argmax_merge, MergeArgs, pieces, run)
