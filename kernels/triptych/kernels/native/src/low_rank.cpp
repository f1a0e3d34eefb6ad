// out += scale · (x · downᵀ) · up, with the factors of each row's own adapter.
//
// A piece is a few rows of one projection, both products of them: the factors are small, so that computing the first
// product for all outputs at once costs less than meeting between the two.

#include "dot.h"

namespace {

struct Part {
    const int64_t* table;  // [4, adapters]: down, up, rank, bits of the double scale
    void* out;             // [rows, outputs], updated
    int64_t outputs;
};

struct LowRankArgs {
    const void* x;           // [rows, inputs]
    const int32_t* adapter;  // [rows], below 0 for none
    int64_t rows, inputs, is_bf16;
    int64_t adapters;
    int64_t parts;
    Part part[4];
};

constexpr int64_t kMaxRank = kScratchBytes / (kDotRows * sizeof(float)) - kGroup;  // native/low_rank.py has it too
constexpr int64_t kBlocks = 4;  // that few rows are cut into
constexpr int kWide = 2;        // groups of outputs at a time: a cache line of bfloat16

int64_t blocks_of(const LowRankArgs& args) {
    return std::max(std::min(args.rows, kBlocks), (args.rows + kDotRows - 1) / kDotRows);
}

int64_t pieces(const LowRankArgs& args) { return args.parts * blocks_of(args); }

template <class T>
struct Pair {
    const T *down, *up;  // [rank, inputs], [rank, outputs]
    int64_t rank;
    float scale;

    Pair(const LowRankArgs& args, const Part& part, int64_t adapter) {
        const auto entry = [&](int64_t row) { return part.table[row * args.adapters + adapter]; };
        down = reinterpret_cast<const T*>(entry(0));
        up = reinterpret_cast<const T*>(entry(1));
        rank = entry(2);
        double wide;
        const int64_t bits = entry(3);
        std::memcpy(&wide, &bits, sizeof(wide));
        scale = static_cast<float>(wide);
    }
};

// hidden [Rows, padded] = x · downᵀ; what is padded is not read.
template <class T>
void go_down(const T* x, int64_t rows, int64_t inputs, const Pair<T>& pair, float* hidden, int64_t padded) {
    f32x16 outputs[kDotRows];
    for (int64_t first = 0; first < pair.rank; first += kGroup) {
        const T* lines[kGroup];
        for (int64_t c = 0; c < kGroup; ++c) lines[c] = pair.down + std::min(first + c, pair.rank - 1) * inputs;
        dot_group(x, rows, lines, inputs, outputs);
        for (int64_t r = 0; r < rows; ++r) store_f32(hidden + r * padded + first, outputs[r]);
    }
}

template <class T>
TRIPTYCH_INLINE f32x16 load_outputs(const T* values, int64_t count) {
    if (count >= kGroup) return load_f32(values);
    T some[kGroup] = {};
    std::memcpy(some, values, count * sizeof(T));
    return load_f32(some);
}

// Adds `Groups` groups of outputs from `first` on, the last one perhaps in part.
template <class T, int Rows, int Groups>
TRIPTYCH_INLINE void add_groups(const float* hidden, int64_t padded, const Pair<T>& pair, int64_t first,
                                int64_t outputs, T* out) {
    f32x16 sums[Rows][Groups] = {};
    for (int64_t j = 0; j < pair.rank; ++j) {
        f32x16 line[Groups];
#pragma GCC unroll 2
        for (int g = 0; g < Groups; ++g) {
            const int64_t output = first + g * kGroup;
            line[g] = load_outputs(pair.up + j * outputs + output, outputs - output);
        }
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
            for (int g = 0; g < Groups; ++g) sums[r][g] = fma(line[g], splat(hidden[r * padded + j]), sums[r][g]);
    }
    for (int r = 0; r < Rows; ++r)
        for (int g = 0; g < Groups; ++g) {
            const int64_t output = first + g * kGroup;
            T* place = out + r * outputs + output;
            store_outputs(place, fma(sums[r][g], splat(pair.scale), load_outputs(place, outputs - output)),
                          outputs - output);
        }
}

template <class T, int Rows>
void come_up(const float* hidden, int64_t padded, const Pair<T>& pair, int64_t outputs, T* out) {
    int64_t first = 0;
    for (; first + kWide * kGroup <= outputs; first += kWide * kGroup)
        add_groups<T, Rows, kWide>(hidden, padded, pair, first, outputs, out);
    for (; first < outputs; first += kGroup) add_groups<T, Rows, 1>(hidden, padded, pair, first, outputs, out);
}

template <class T>
void come_up(const float* hidden, int64_t rows, int64_t padded, const Pair<T>& pair, int64_t outputs, T* out) {
    switch (rows) {
        case 1: return come_up<T, 1>(hidden, padded, pair, outputs, out);
        case 2: return come_up<T, 2>(hidden, padded, pair, outputs, out);
        case 3: return come_up<T, 3>(hidden, padded, pair, outputs, out);
        case 4: return come_up<T, 4>(hidden, padded, pair, outputs, out);
        case 5: return come_up<T, 5>(hidden, padded, pair, outputs, out);
        case 6: return come_up<T, 6>(hidden, padded, pair, outputs, out);
        case 7: return come_up<T, 7>(hidden, padded, pair, outputs, out);
        case 8: return come_up<T, 8>(hidden, padded, pair, outputs, out);
    }
}

// Neighbouring rows of one adapter go together.
template <class T>
void add_rows(const LowRankArgs& args, const Part& part, Range rows, float* hidden) {
    for (int64_t first = rows.first, last; first < rows.last; first = last) {
        const int32_t adapter = args.adapter[first];
        last = first + 1;
        while (last < rows.last && last - first < kDotRows && args.adapter[last] == adapter) ++last;
        if (adapter < 0 || adapter >= args.adapters) continue;
        const Pair<T> pair(args, part, adapter);
        if (!pair.rank) continue;
        const int64_t padded = groups_of(pair.rank) * kGroup;
        go_down(static_cast<const T*>(args.x) + first * args.inputs, last - first, args.inputs, pair, hidden, padded);
        come_up(hidden, last - first, padded, pair, part.outputs, static_cast<T*>(part.out) + first * part.outputs);
    }
}

void run(const LowRankArgs& args, int64_t piece, char* scratch) {
    const int64_t blocks = blocks_of(args);
    const Part& part = args.part[piece / blocks];
    const Range rows = share(args.rows, 1, piece % blocks, blocks);
    auto* hidden = reinterpret_cast<float*>(scratch);
    args.is_bf16 ? add_rows<bf16>(args, part, rows, hidden) : add_rows<float>(args, part, rows, hidden);
}

}  // namespace

TRIPTYCH_KERNEL(low_rank, LowRankArgs, pieces, run)
