// Projections by plain weights, bfloat16 or float32, row-major as checkpoints store them.
//
// Few rows are bound by reading the weights: dot products (dot.h). Many are bound by arithmetic: panels (panel.h).
// A piece is a block of rows times a range of groups of sixteen outputs.

#include "dot.h"
#include "panel.h"

namespace {

constexpr int64_t kFewRows = 11;           // above, transposing x costs less than adding up lanes
constexpr int64_t kPieceBytes = 64 << 10;  // of weights that a piece of few rows reads
constexpr int64_t kPanelBytes = 448 << 10; // of panels that stay in the second-level cache
constexpr int64_t kGroups = 8;             // of outputs that a panel is packed for, at least
constexpr int64_t kHeadRows = kPanelRows;  // of the greedy head at a time
constexpr int64_t kPieces = 16;            // that share out many rows, as far as the sizes above allow

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

// Whether rows are multiplied as panels; one answer for all rows of a call, because it decides the order of sums.
bool many(int64_t rows, int64_t inner, int64_t is_bf16) {
    return rows > kFewRows && kPanelRows * inner * (is_bf16 ? 2 : 4) <= kScratchBytes - 64 * kPanelRows;
}

int64_t groups_of(int64_t outputs) { return (outputs + kGroup - 1) / kGroup; }

// Where panels go, null for few rows.
template <class Args>
u32x16* panels(const Args& args, char* scratch) {
    return many(args.rows, args.inner, args.is_bf16) ? reinterpret_cast<u32x16*>(scratch) : nullptr;
}

// Rows of x made ready to be multiplied, a chunk at a time.
template <class T>
class Rows {
  public:
    // Of x [.., inner] the rows of `range`; as panels if there is scratch for them.
    Rows(const T* x, Range range, int64_t inner, u32x16* panels)
        : x_(x + range.first * inner), count_(range.last - range.first), inner_(inner), panels_(panels) {
        const int64_t most = panels ? kPanelRows : kDotRows;
        chunks_ = (count_ + most - 1) / most;
        for (int64_t i = 0; panels && i < chunks_; ++i)
            pack_panel(x_ + chunk(i).first * inner, length(i), inner, panels + i * panel_size());
    }

    int64_t chunks() const { return chunks_; }

    Range chunk(int64_t i) const {
        if (!panels_) return share(count_, 1, i, chunks_);
        return {i * kPanelRows, std::min(count_, (i + 1) * kPanelRows)};
    }

    // outputs[r] = the products of row r of the chunk with sixteen rows of a weight.
    void multiply(int64_t i, const T* const* weight, f32x16* outputs) const {
        panels_ ? panel_group(panels_ + i * panel_size(), length(i), weight, inner_, outputs)
                : dot_group(x_ + chunk(i).first * inner_, length(i), weight, inner_, outputs);
    }

  private:
    int64_t length(int64_t i) const { return chunk(i).last - chunk(i).first; }
    int64_t panel_size() const { return kPanelVectors * panel_words<T>(inner_); }

    const T* x_;
    int64_t count_, inner_, chunks_;
    u32x16* panels_;
};

// Sixteen rows of a weight from `output` on; beyond the last one it is repeated.
template <class T>
struct Group {
    const T* rows[kGroup];

    Group(const void* weight, int64_t output, int64_t outputs, int64_t inner) {
        for (int64_t c = 0; c < kGroup; ++c)
            rows[c] = static_cast<const T*>(weight) + std::min(output + c, outputs - 1) * inner;
    }
};

// How rows and groups of outputs are shared out.
struct Cut {
    int64_t blocks, columns;

    Cut(int64_t rows, int64_t inner, int64_t is_bf16, int64_t groups) {
        const int64_t bytes = inner * (is_bf16 ? 2 : 4);
        if (!many(rows, inner, is_bf16)) {
            blocks = 1;
            columns = clamp(groups * kGroup * bytes / kPieceBytes, 1, groups);
        } else {
            const int64_t panels = (rows + kPanelRows - 1) / kPanelRows;
            const int64_t together = clamp(kPanelBytes / (kPanelRows * bytes), 1, panels);
            blocks = (panels + together - 1) / together;
            columns = clamp(kPieces / blocks, 1, clamp(groups / kGroups, 1, groups));
        }
        if (rows == 0 || groups == 0) blocks = columns = 0;
    }

    Range rows(int64_t piece, int64_t count) const { return share(count, kPanelRows, piece / columns, blocks); }
    Range groups(int64_t piece, int64_t count) const { return share(count, 1, piece % columns, columns); }
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
