// Projections by weights of any form: how the work is cut, and where the products go. What multiplies is a Form:
//
//   Form(args, rows, scratch)              a range of rows of x, made ready to be multiplied
//   group(part, output, place)             sixteen outputs of a weight, the second weight of a gate at place 1
//   multiply(chunk, group, outputs)        outputs[r] = the sixteen products of row r of a chunk of the rows (chunk_of)
//
// A piece is a block of rows times a range of groups of sixteen outputs, over all parts.

#pragma once

#include "results.h"

constexpr int64_t kChunkRows = 48;

enum Purpose : int64_t {
    kProject,  // part[i].out = x · part[i].weightᵀ + part[i].bias
    kGate,     // part[0].out = silu(x · part[0].weightᵀ) · (x · part[1].weightᵀ)
    kLargest,  // values and ids of the largest of each row of x · part[0].weightᵀ, in every piece's range of outputs
};

struct ProductPart {
    const void* weight;
    const float* scales;  // [outputs], with int8 weights
    const void* bias;     // [outputs] or null
    void* out;            // [rows, outputs]
    int64_t outputs;
    int64_t wide;  // out is float32, whatever x is
};

struct ProductArgs {
    const void* x;      // [rows, inputs], or what was made of it
    float* values;      // [pieces, rows]
    int64_t* ids;       // [pieces, rows]
    int64_t rows, inputs;
    int64_t is_bf16;    // x as the model has it, biases and outputs; else float32
    int64_t kind;       // of the weights' blocks
    int64_t purpose;
    int64_t row_bytes;  // of one output's weights
    int64_t cuts;       // ranges of outputs that the largest are looked for in
    int64_t parts;
    ProductPart part[4];
};

inline int64_t chunks_of(int64_t rows) { return (rows + kChunkRows - 1) / kChunkRows; }

inline Range chunk_of(Range rows, int64_t i) {
    const int64_t first = rows.first + i * kChunkRows;
    return {first, std::min(first + kChunkRows, rows.last)};
}

// How rows and groups of outputs are shared out.
struct Cut {
    static constexpr int64_t kFew = 8;                // rows, which are bound by reading the weights
    static constexpr int64_t kPieceBytes = 64 << 10;  // of weights that a piece of few rows reads
    static constexpr int64_t kBlockBytes = 400 << 10;  // of many rows that stay in the second-level cache
    static constexpr int64_t kColumns = 8;            // that share out the outputs of many rows

    int64_t groups = 0, blocks = 0, columns = 0;

    explicit Cut(const ProductArgs& args) {
        const int64_t parts = args.purpose == kProject ? args.parts : 1;
        for (int64_t i = 0; i < parts; ++i) groups += groups_of(args.part[i].outputs);
        if (args.rows == 0 || groups == 0) return;
        const int64_t bytes = groups * kGroup * args.row_bytes * (args.purpose == kGate ? 2 : 1);
        columns = args.purpose == kLargest ? args.cuts : clamp(args.rows <= kFew ? bytes / kPieceBytes : kColumns, 1, groups);
        if (args.rows <= kFew || args.purpose == kLargest) {
            blocks = 1;
        } else {
            const int64_t chunk = kChunkRows * args.inputs * (args.is_bf16 ? 1 : 4), chunks = chunks_of(args.rows);
            const int64_t together = clamp(kBlockBytes / chunk, 1, chunks);
            blocks = (chunks + together - 1) / together;
        }
    }
};

inline int64_t product_pieces(const ProductArgs& args) {
    const Cut cut(args);
    return cut.blocks * cut.columns;
}

// Calls take(part, row, output, values) with sixteen products at a time.
template <class Form, class Take>
TRIPTYCH_INLINE void multiply(const ProductArgs& args, Range rows, Range groups, char* scratch, Take&& take) {
    Form form(args, rows, scratch);
    const ProductPart* part = args.part;
    int64_t before = 0;  // groups of the parts before this one
    f32x16 outputs[kChunkRows], others[kChunkRows];
    for (int64_t g = groups.first; g < groups.last; ++g) {
        while (g >= before + groups_of(part->outputs)) before += groups_of(part++->outputs);
        const int64_t output = (g - before) * kGroup;
        const bool gate = args.purpose == kGate;
        const auto weight = form.group(*part, output, 0);
        const auto other = gate ? form.group(part[1], output, 1) : weight;
        for (int64_t i = 0; i < chunks_of(rows.last - rows.first); ++i) {
            const Range chunk = chunk_of(rows, i);
            form.multiply(chunk, weight, outputs);
            if (gate) {
                form.multiply(chunk, other, others);
                for (int64_t r = 0; r < chunk.last - chunk.first; ++r) outputs[r] = silu(outputs[r]) * others[r];
            }
            for (int64_t r = chunk.first; r < chunk.last; ++r) take(*part, r, output, outputs[r - chunk.first]);
        }
    }
}

template <class Form>
void largest_piece(const ProductArgs& args, int64_t piece, Range groups, char* scratch) {
    Largest largest[kChunkRows];
    for (int64_t first = 0; first < args.rows; first += kChunkRows) {
        const Range rows{first, std::min(args.rows, first + kChunkRows)};
        std::fill_n(largest, kChunkRows, Largest{});
        multiply<Form>(args, rows, groups, scratch,
                       [&](const ProductPart& part, int64_t row, int64_t output, f32x16 values) {
                           largest[row - first](output, values, part.outputs);
                       });
        for (int64_t row = rows.first; row < rows.last; ++row) {
            const int64_t place = piece * args.rows + row;
            largest[row - first].finish(args.values + place, args.ids + place);
        }
    }
}

template <class Form, class T>
void product_piece(const ProductArgs& args, int64_t piece, char* scratch) {
    const Cut cut(args);
    const Range rows = share(args.rows, kChunkRows, piece / cut.columns, cut.blocks);
    const Range groups = share(cut.groups, 1, piece % cut.columns, cut.columns);
    if (args.purpose == kLargest) return largest_piece<Form>(args, piece, groups, scratch);
    multiply<Form>(args, rows, groups, scratch,
                   [](const ProductPart& part, int64_t row, int64_t output, f32x16 values) {
                       Projected<T>{part.out, static_cast<const T*>(part.bias), part.outputs, part.wide != 0}(
                           row, output, values);
                   });
}
