// Projections by plain weights, bfloat16 or float32, row-major as checkpoints store them.
//
// Few rows are bound by reading the weights: dot products (dot.h). Many are bound by arithmetic: panels (panel.h).
// A piece is a block of rows times a range of groups of sixteen outputs.

#include "dense_rows.h"

namespace {

constexpr int64_t kHeadRows = kPanelRows;  // of the greedy head at a time

struct Part {
    const void* weight;  // [outputs, inner]
    const void* bias;    // [outputs] or null
    void* out;           // [rows, outputs]
    int64_t outputs;
    int64_t wide;  // out is float32, whatever x is
};

struct LinearArgs {
    const void* x;  // [rows, inner], as weights and biases bfloat16 or float32
    int64_t rows, inner, is_bf16;
    int64_t parts;
    Part part[4];
};

struct ArgmaxArgs {
    const void* x;       // [rows, inner]
    const void* weight;  // [outputs, inner]
    float* values;       // [pieces, rows]
    int64_t* ids;        // [pieces, rows]
    int64_t rows, inner, is_bf16, outputs, pieces;
};

int64_t all_groups(const LinearArgs& args) {
    int64_t groups = 0;
    for (int64_t i = 0; i < args.parts; ++i) groups += groups_of(args.part[i].outputs);
    return groups;
}

int64_t linears_pieces(const LinearArgs& args) {
    const Cut cut(args.rows, args.inner, args.is_bf16, all_groups(args));
    return cut.blocks * cut.columns;
}

template <class T>
void linears_piece(const LinearArgs& args, int64_t piece, char* scratch) {
    const int64_t groups = all_groups(args);
    const Cut cut(args.rows, args.inner, args.is_bf16, groups);
    const Range block = cut.rows(piece, args.rows), columns = cut.groups(piece, groups);
    const Rows<T> rows(static_cast<const T*>(args.x), block, args.inner, panels(args, scratch));
    const Part* part = args.part;
    int64_t before = 0;  // groups of the parts before this one
    f32x16 outputs[kPanelRows];
    for (int64_t g = columns.first; g < columns.last; ++g) {
        while (g >= before + groups_of(part->outputs)) before += groups_of(part++->outputs);
        const int64_t output = (g - before) * kGroup;
        const Group<T> weight(part->weight, output, part->outputs, args.inner);
        const Projected<T> result{part->out, static_cast<const T*>(part->bias), part->outputs, part->wide != 0};
        for (int64_t i = 0; i < rows.chunks(); ++i) {
            rows.multiply(i, weight.rows, outputs);
            const Range chunk = rows.chunk(i);
            for (int64_t r = chunk.first; r < chunk.last; ++r) result(block.first + r, output, outputs[r - chunk.first]);
        }
    }
}

// part[0] is the gate, part[1] what it multiplies, part[0].out the result.
int64_t gated_pieces(const LinearArgs& args) {
    const Cut cut(args.rows, args.inner, args.is_bf16, 2 * groups_of(args.part[0].outputs));
    return cut.blocks * cut.columns;
}

template <class T>
void gated_piece(const LinearArgs& args, int64_t piece, char* scratch) {
    const Part &gate = args.part[0], &up = args.part[1];
    const int64_t groups = groups_of(gate.outputs);
    const Cut cut(args.rows, args.inner, args.is_bf16, 2 * groups);
    const Range block = cut.rows(piece, args.rows), columns = cut.groups(piece, groups);
    const Rows<T> rows(static_cast<const T*>(args.x), block, args.inner, panels(args, scratch));
    const Projected<T> result{gate.out, nullptr, gate.outputs, gate.wide != 0};
    f32x16 gates[kPanelRows], ups[kPanelRows];
    for (int64_t g = columns.first; g < columns.last; ++g) {
        const int64_t output = g * kGroup;
        const Group<T> gate_weight(gate.weight, output, gate.outputs, args.inner);
        const Group<T> up_weight(up.weight, output, gate.outputs, args.inner);
        for (int64_t i = 0; i < rows.chunks(); ++i) {
            rows.multiply(i, gate_weight.rows, gates);
            rows.multiply(i, up_weight.rows, ups);
            const Range chunk = rows.chunk(i);
            for (int64_t r = chunk.first; r < chunk.last; ++r) {
                const int64_t n = r - chunk.first;
                result(block.first + r, output, silu(gates[n]) * ups[n]);
            }
        }
    }
}

int64_t argmax_pieces(const ArgmaxArgs& args) { return args.pieces; }

template <class T>
void argmax_piece(const ArgmaxArgs& args, int64_t piece, char* scratch) {
    const Range columns = share(groups_of(args.outputs), 1, piece, args.pieces);
    f32x16 outputs[kPanelRows];
    Largest largest[kHeadRows];
    for (int64_t first = 0; first < args.rows; first += kHeadRows) {
        const int64_t count = std::min(kHeadRows, args.rows - first);
        const Rows<T> rows(static_cast<const T*>(args.x), {first, first + count}, args.inner, panels(args, scratch));
        std::fill_n(largest, count, Largest{});
        for (int64_t g = columns.first; g < columns.last; ++g) {
            const Group<T> weight(args.weight, g * kGroup, args.outputs, args.inner);
            for (int64_t i = 0; i < rows.chunks(); ++i) {
                rows.multiply(i, weight.rows, outputs);
                const Range chunk = rows.chunk(i);
                for (int64_t r = chunk.first; r < chunk.last; ++r)
                    largest[r](g * kGroup, outputs[r - chunk.first], args.outputs);
            }
        }
        for (int64_t r = 0; r < count; ++r) {
            const int64_t place = piece * args.rows + first + r;
            largest[r].finish(args.values + place, args.ids + place);
        }
    }
}

void run_linears(const LinearArgs& args, int64_t piece, char* scratch) {
    args.is_bf16 ? linears_piece<bf16>(args, piece, scratch) : linears_piece<float>(args, piece, scratch);
}

void run_gated(const LinearArgs& args, int64_t piece, char* scratch) {
    args.is_bf16 ? gated_piece<bf16>(args, piece, scratch) : gated_piece<float>(args, piece, scratch);
}

void run_argmax(const ArgmaxArgs& args, int64_t piece, char* scratch) {
    args.is_bf16 ? argmax_piece<bf16>(args, piece, scratch) : argmax_piece<float>(args, piece, scratch);
}

}  // namespace

TRIPTYCH_KERNEL(linears, LinearArgs, linears_pieces, run_linears)
TRIPTYCH_KERNEL(gated_linear, LinearArgs, gated_pieces, run_gated)
TRIPTYCH_KERNEL(linear_argmax, ArgmaxArgs, argmax_pieces, run_argmax)
