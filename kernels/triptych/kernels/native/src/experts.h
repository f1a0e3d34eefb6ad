// The two products of a mixture of experts, for weights of any form. What multiplies is a Form:
//
//   Form(args, scratch)                      may use kFormBytes of scratch
//   row_bytes()                              of a row of x, as the form reads it
//   group(addresses, expert, output, place)  sixteen outputs of an expert's weight; two at a time, at places 0 and 1
//   multiply(rows, count, group, outputs)    outputs[r] = the sixteen products of row r, of at most kRowsAtOnce
//
// Experts' weights are read once, a group of sixteen outputs after the other, by all rows that go there. How the work is
// cut depends on the choices of this step, into how many pieces only on the arguments. A row has the same products in
// any company, and a token's experts are added up in their order.

#pragma once

#include <algorithm>

#include "experts_plan.h"
#include "gates.h"
#include "results.h"

constexpr int64_t kRowsAtOnce = 8;
constexpr int64_t kFormBytes = 2 << 20;     // of scratch, for the form
constexpr int64_t kGatherBytes = 1 << 20;   // for rows of x that go to one expert
constexpr int64_t kSumBytes = 1 << 20;      // for sums of outputs of all tokens
constexpr int64_t kExpertPieceBytes = 64 << 10;  // of weights that a piece reads
constexpr int64_t kMaxPieces = 256;
constexpr int64_t kReading = 8;  // reading a group of outputs takes as long as multiplying so many rows

struct ExpertsArgs {
    const void* x;             // rows as the form reads them: of tokens, or of entries of the plan
    void* plan;
    const int64_t* addresses;  // [3, experts] of weights, scales and biases; of the gate where there are two
    const int64_t* others;     // of what the gate multiplies
    const float* shares;       // [tokens, top_k], weights of the sum
    void* out;                 // [entries, outputs] of the gated unit, [tokens, outputs] of the sum
    int64_t tokens, top_k, experts, inputs, outputs;
    int64_t is_bf16;           // biases and outputs; else float32
    int64_t kind;              // of the weights' blocks
    int64_t row_bytes;         // of one output's weights
    int64_t gate;              // Gate
    double alpha, limit;       // of it

    int64_t groups() const { return groups_of(outputs); }
    int64_t entries() const { return tokens * top_k; }
    // Of weights that are read at most.
    int64_t bytes() const { return std::min(experts, entries()) * groups() * kGroup * row_bytes; }
};

// The bias of sixteen outputs of an expert, 0 where there is none.
template <class T>
TRIPTYCH_INLINE f32x16 bias_of(const ExpertsArgs& args, const int64_t* addresses, int64_t expert, int64_t output) {
    const T* bias = reinterpret_cast<const T*>(addresses[2 * args.experts + expert]);
    if (!bias) return f32x16{};
    T values[kGroup] = {};
    std::memcpy(values, bias + output, std::min(kGroup, args.outputs - output) * sizeof(T));
    return load_f32(values);
}

// ---- hidden = act(x · gateᵀ) · (x · upᵀ), a row for every entry of the plan ----

inline int64_t gated_pieces(const ExpertsArgs& args) {
    if (args.entries() == 0) return 0;
    const int64_t most = std::min(args.experts, args.entries()) * args.groups();
    return clamp(2 * args.bytes() / kExpertPieceBytes, 1, std::min(most, kMaxPieces));
}

// Groups whose work begins in [low, high) of the expert's own, when each takes `cost`.
inline Range groups_between(int64_t low, int64_t high, int64_t cost, int64_t groups) {
    return {clamp((low + cost - 1) / cost, 0, groups), clamp((high + cost - 1) / cost, 0, groups)};
}

template <class Form, class T>
class GatedUnit {
  public:
    GatedUnit(const ExpertsArgs& args, char* scratch)
        : args_(args), plan_(args.plan, args.experts), form_(args, scratch), gathered_(scratch + kFormBytes),
          gating_{args.gate, static_cast<float>(args.alpha), static_cast<float>(args.limit)} {}

    void run(int64_t piece) {
        const int64_t groups = args_.groups(), pieces = gated_pieces(args_), total = cost();
        const int64_t low = total * piece / pieces, high = total * (piece + 1) / pieces;
        int64_t before = 0;
        for (int64_t i = 0; i < plan_.active() && before < high; ++i) {
            const int64_t one = cost_of_group(i);
            const Range mine = groups_between(low - before, high - before, one, groups);
            if (mine.first < mine.last) expert(i, mine);
            before += one * groups;
        }
    }

  private:
    int64_t cost_of_group(int64_t i) const { return kReading + plan_.rows(i).last - plan_.rows(i).first; }
    int64_t cost() const {
        int64_t total = 0;
        for (int64_t i = 0; i < plan_.active(); ++i) total += cost_of_group(i) * args_.groups();
        return total;
    }

    // As many rows at a time as there is room for.
    void expert(int64_t i, Range groups) {
        const Range rows = plan_.rows(i);
        const int64_t most = std::max(kGatherBytes / form_.row_bytes() / kRowsAtOnce * kRowsAtOnce, kRowsAtOnce);
        for (int64_t first = rows.first; first < rows.last; first += most) {
            const Range block{first, std::min(first + most, rows.last)};
            multiply(plan_.expert(i), gather(block), block, groups);
        }
    }

    const char* gather(Range rows) {
        const int64_t bytes = form_.row_bytes();
        const auto source = [&](int64_t row) {
            return static_cast<const char*>(args_.x) + plan_.entry(row) / args_.top_k * bytes;
        };
        if (rows.last - rows.first == 1) return source(rows.first);
        for (int64_t row = rows.first; row < rows.last; ++row)
            std::memcpy(gathered_ + (row - rows.first) * bytes, source(row), bytes);
        return gathered_;
    }

    void multiply(int64_t expert, const char* x, Range rows, Range groups) {
        f32x16 gates[kRowsAtOnce], ups[kRowsAtOnce];
        const Projected<T> result{args_.out, nullptr, args_.outputs, false};
        for (int64_t g = groups.first; g < groups.last; ++g) {
            const int64_t output = g * kGroup;
            const auto gate = form_.group(args_.addresses, expert, output, 0);
            const auto up = form_.group(args_.others, expert, output, 1);
            const f32x16 gate_bias = bias_of<T>(args_, args_.addresses, expert, output);
            const f32x16 up_bias = bias_of<T>(args_, args_.others, expert, output);
            for (int64_t first = rows.first; first < rows.last; first += kRowsAtOnce) {
                const int64_t count = std::min(kRowsAtOnce, rows.last - first);
                const char* some = x + (first - rows.first) * form_.row_bytes();
                form_.multiply(some, count, gate, gates);
                form_.multiply(some, count, up, ups);
                for (int64_t r = 0; r < count; ++r)
                    result(first + r, output, gating_(gates[r] + gate_bias, ups[r] + up_bias));
            }
        }
    }

    const ExpertsArgs& args_;
    const Plan plan_;
    Form form_;
    char* const gathered_;
    const Gating gating_;
};

// ---- out = Σ over the experts of a token, of share · (hidden · downᵀ + bias) ----

inline int64_t sum_pieces(const ExpertsArgs& args) {
    return args.tokens ? clamp(args.bytes() / kExpertPieceBytes, 1, std::min(args.groups(), kMaxPieces)) : 0;
}

template <class Form, class T>
void add_expert(const ExpertsArgs& args, const Form& form, const Plan& plan, int64_t i, int64_t output, f32x16* sums) {
    const int64_t expert = plan.expert(i);
    const Range rows = plan.rows(i);
    const auto weight = form.group(args.addresses, expert, output, 0);
    const f32x16 bias = bias_of<T>(args, args.addresses, expert, output);
    f32x16 outputs[kRowsAtOnce];
    for (int64_t first = rows.first; first < rows.last; first += kRowsAtOnce) {
        const int64_t count = std::min(kRowsAtOnce, rows.last - first);
        form.multiply(static_cast<const char*>(args.x) + first * form.row_bytes(), count, weight, outputs);
        for (int64_t r = 0; r < count; ++r) {
            const int64_t entry = plan.entry(first + r);
            f32x16& sum = sums[entry / args.top_k];
            sum = fma(outputs[r] + bias, splat(args.shares[entry]), sum);
        }
    }
}

// Several groups of outputs at a time, as far as there is room, so that more of an expert is read in one go.
template <class Form, class T>
void sum_piece(const ExpertsArgs& args, int64_t piece, char* scratch) {
    const Plan plan(args.plan, args.experts);
    const Form form(args, scratch);
    auto* sums = reinterpret_cast<f32x16*>(scratch + kFormBytes);
    const Range groups = share(args.groups(), 1, piece, sum_pieces(args));
    const int64_t most = std::max<int64_t>(kSumBytes / (args.tokens * sizeof(f32x16)), 1);
    const Projected<T> result{args.out, nullptr, args.outputs, false};
    for (int64_t first = groups.first; first < groups.last; first += most) {
        const int64_t count = std::min(most, groups.last - first);
        std::fill_n(sums, count * args.tokens, f32x16{});
        for (int64_t i = 0; i < plan.active(); ++i)
            for (int64_t g = 0; g < count; ++g)
                add_expert<Form, T>(args, form, plan, i, (first + g) * kGroup, sums + g * args.tokens);
        for (int64_t g = 0; g < count; ++g)
            for (int64_t t = 0; t < args.tokens; ++t) result(t, (first + g) * kGroup, sums[g * args.tokens + t]);
    }
}

// ---- rows made ready for a form that quantises them ----

struct ExpertRowsArgs {
    const void* x;  // [rows, inputs]
    void* out;
    int64_t rows, inputs, is_bf16, kind;
};

inline int64_t row_pieces(const ExpertRowsArgs& args) {
    return args.rows ? clamp(args.rows * args.inputs / 4096, 1, std::min<int64_t>(args.rows, 64)) : 0;
}
