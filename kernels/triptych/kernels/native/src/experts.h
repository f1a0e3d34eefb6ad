// The two products of a mixture of experts, for weights of any form. What multiplies is a Form:
//
//   Form(args, scratch)                      may use kFormBytes of scratch
//   row_bytes()                              of a row of x, as the form reads it
//   take(rows, count)                        a block of rows, of at most kGatherBytes, made ready to be multiplied
//   group(addresses, expert, output, place)  sixteen outputs of an expert's weight; two at a time, at places 0 and 1
//   multiply(chunk, group, outputs)          outputs[r] = the sixteen products of row r of a chunk of the block
//
// Experts' weights are read once, a group of sixteen outputs after the other, by all rows that go there. How the work is
// cut depends on the choices of this step, into how many pieces only on the arguments. The products of a row are the
// same in any company as far as its form says so, and a token's experts are added up in their order.

#pragma once

#include <algorithm>

#include "arrivals.h"
#include "experts_plan.h"
#include "gates.h"
#include "results.h"

constexpr int64_t kRowsAtOnce = 48;  // that are multiplied at once
constexpr int64_t kFormBytes = 2 << 20;     // of scratch, for the form
constexpr int64_t kGatherBytes = 1 << 20;   // for rows of x that go to one expert
constexpr int64_t kSumBytes = 1 << 20;      // for sums of outputs of all tokens
constexpr int64_t kMaxInputs = 1 << 14;  // MAX_INPUTS in native/experts.py; what forms keep in scratch has room for them
constexpr int64_t kExpertPieceBytes = 64 << 10;  // of weights that a piece reads
constexpr int64_t kLongPieceBytes = 768 << 10;   // and does for few rows where there are enough pieces
constexpr int64_t kEnoughPieces = 16;
constexpr int64_t kMaxPieces = 256;
constexpr int64_t kReading = 8;  // reading a group of outputs takes as long as multiplying so many rows
constexpr int64_t kRun = 8 << 10;  // of an expert's weights that are worth going to another expert for

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
    int32_t* flags;            // [experts] arrivals.h; null when all experts are there
    int64_t* waited;
    const int32_t* window;     // [2] experts of this wave: the first, and the first after it; null for all experts
    float* partial;            // [groups, tokens, 16] sums so far, between waves

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

// Calls each(block) with as many of the rows at a time as there is room for.
template <class Form, class Each>
void in_blocks(const Form& form, Range rows, Each&& each) {
    const int64_t room = kGatherBytes / form.row_bytes(), most = room < kRowsAtOnce ? 8 : room / kRowsAtOnce * kRowsAtOnce;
    for (int64_t first = rows.first; first < rows.last; first += most)
        each(Range{first, std::min(first + most, rows.last)});
}

// Calls each(chunk) with rows of a block, counted from its first.
template <class Each>
TRIPTYCH_INLINE void in_chunks(int64_t rows, Each&& each) {
    for (int64_t first = 0; first < rows; first += kRowsAtOnce) each(Range{first, std::min(first + kRowsAtOnce, rows)});
}

// Few and long for few rows, which are bound by reading: nothing has asked memory for what a piece begins with. Many
// rows are bound by multiplying, and have pieces for many threads.
inline int64_t pieces_for(const ExpertsArgs& args) {
    const int64_t pieces = args.bytes() / kExpertPieceBytes;
    if (args.entries() > kReading * args.experts) return pieces;
    return std::max(std::min(pieces, kEnoughPieces), args.bytes() / kLongPieceBytes);
}

// ---- hidden = act(x · gateᵀ) · (x · upᵀ), a row for every entry of the plan ----

inline int64_t gated_pieces(const ExpertsArgs& args) {
    if (args.entries() == 0) return 0;
    const int64_t most = std::min(args.experts, args.entries()) * args.groups();
    return clamp(2 * pieces_for(args), 1, std::min(most, kMaxPieces));
}

// Groups whose work begins in [low, high) of the expert's own, when each takes `cost`.
inline Range groups_between(int64_t low, int64_t high, int64_t cost, int64_t groups) {
    return {clamp((low + cost - 1) / cost, 0, groups), clamp((high + cost - 1) / cost, 0, groups)};
}

template <class Form, class T>
class GatedUnit {
  public:
    GatedUnit(const ExpertsArgs& args, char* scratch)
        : args_(args), plan_(args.plan, args.experts), arrivals_(args.flags, args.waited), form_(args, scratch),
          gathered_(scratch + kFormBytes),
          gating_{args.gate, static_cast<float>(args.alpha), static_cast<float>(args.limit)} {}

    void run(int64_t piece) {
        const int64_t groups = args_.groups(), pieces = gated_pieces(args_), total = cost();
        const int64_t low = total * piece / pieces, high = total * (piece + 1) / pieces;
        int64_t before = 0;
        for (int64_t n = 0; n < plan_.active() && before < high; ++n) {
            const int64_t i = plan_.order()[n];
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

    void expert(int64_t i, Range groups) {
        arrivals_.wait_for(plan_.expert(i), kGateUpThere);
        in_blocks(form_, plan_.rows(i), [&](Range block) {
            form_.take(gather(block), block.last - block.first);
            multiply(plan_.expert(i), block, groups);
        });
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

    void multiply(int64_t expert, Range rows, Range groups) {
        f32x16 gates[kRowsAtOnce], ups[kRowsAtOnce];
        const Projected<T> result{args_.out, nullptr, args_.outputs, false};
        for (int64_t g = groups.first; g < groups.last; ++g) {
            const int64_t output = g * kGroup;
            const auto gate = form_.group(args_.addresses, expert, output, 0);
            const auto up = form_.group(args_.others, expert, output, 1);
            const f32x16 gate_bias = bias_of<T>(args_, args_.addresses, expert, output);
            const f32x16 up_bias = bias_of<T>(args_, args_.others, expert, output);
            in_chunks(rows.last - rows.first, [&](Range chunk) {
                form_.multiply(chunk, gate, gates);
                form_.multiply(chunk, up, ups);
                for (int64_t r = 0; r < chunk.last - chunk.first; ++r)
                    result(rows.first + chunk.first + r, output, gating_(gates[r] + gate_bias, ups[r] + up_bias));
            });
        }
    }

    const ExpertsArgs& args_;
    const Plan plan_;
    const Arrivals arrivals_;
    Form form_;
    char* const gathered_;
    const Gating gating_;
};

// ---- out = Σ over the experts of a token, of share · (hidden · downᵀ + bias) ----

inline int64_t sum_pieces(const ExpertsArgs& args) {
    if (args.tokens == 0) return 0;
    const int64_t together = clamp(kRun / (kGroup * args.row_bytes), 1, args.groups());  // groups of outputs
    const int64_t most = (args.groups() + together - 1) / together;
    return clamp(pieces_for(args), 1, std::min(most, kMaxPieces));
}

template <class Form, class T>
class Sum {
  public:
    Sum(const ExpertsArgs& args, char* scratch)
        : args_(args), plan_(args.plan, args.experts), arrivals_(args.flags, args.waited), form_(args, scratch),
          sums_(reinterpret_cast<f32x16*>(scratch + kFormBytes)) {}

    // Several groups of outputs at a time, as far as there is room, so that more of an expert is read in one go.
    void run(int64_t piece) {
        if (args_.window && args_.window[0] == args_.window[1]) return;  // all waves are over
        const Range mine = share(args_.groups(), 1, piece, sum_pieces(args_));
        const int64_t most = std::max<int64_t>(kSumBytes / (args_.tokens * sizeof(f32x16)), 1);
        for (int64_t first = mine.first; first < mine.last; first += most) {
            const Range groups{first, std::min(first + most, mine.last)};
            begin(groups);
            for (int64_t i = 0; i < plan_.active(); ++i) {
                if (i + 1 < plan_.active()) ask_for(plan_.expert(i + 1), groups);
                add(i, groups);
            }
            end(groups);
        }
    }

  private:
    f32x16* partial(Range groups) const { return reinterpret_cast<f32x16*>(args_.partial) + groups.first * args_.tokens; }

    void begin(Range groups) {
        const int64_t count = (groups.last - groups.first) * args_.tokens;
        if (args_.window && args_.window[0] > 0) std::memcpy(sums_, partial(groups), count * sizeof(f32x16));
        else std::fill_n(sums_, count, f32x16{});
    }

    void end(Range groups) const {
        const int64_t count = (groups.last - groups.first) * args_.tokens;
        if (args_.window && args_.window[1] < args_.experts) std::memcpy(partial(groups), sums_, count * sizeof(f32x16));
        else write(groups);
    }

    // An expert's share of the piece is short, and lies somewhere else than the last one's.
    void ask_for(int64_t expert, Range groups) const {
        const char* weight = reinterpret_cast<const char*>(args_.addresses[expert]);
        const int64_t first = groups.first * kGroup * args_.row_bytes;
        const int64_t last = std::min(groups.last * kGroup, args_.outputs) * args_.row_bytes;
        for (int64_t i = first; i < std::min(last, first + 2 * kRun); i += 64) __builtin_prefetch(weight + i, 0, 2);
    }

    void add(int64_t i, Range groups) {
        const int64_t expert = plan_.expert(i);
        arrivals_.wait_for(expert, kDownThere);
        in_blocks(form_, plan_.rows(i), [&](Range block) {
            form_.take(static_cast<const char*>(args_.x) + block.first * form_.row_bytes(), block.last - block.first);
            for (int64_t g = groups.first; g < groups.last; ++g)
                add_group(expert, block, g * kGroup, sums_ + (g - groups.first) * args_.tokens);
        });
    }

    void add_group(int64_t expert, Range rows, int64_t output, f32x16* sums) {
        const auto weight = form_.group(args_.addresses, expert, output, 0);
        const f32x16 bias = bias_of<T>(args_, args_.addresses, expert, output);
        f32x16 outputs[kRowsAtOnce];
        in_chunks(rows.last - rows.first, [&](Range chunk) {
            form_.multiply(chunk, weight, outputs);
            for (int64_t r = chunk.first; r < chunk.last; ++r) {
                const int64_t entry = plan_.entry(rows.first + r);
                f32x16& sum = sums[entry / args_.top_k];
                sum = fma(outputs[r - chunk.first] + bias, splat(args_.shares[entry]), sum);
            }
        });
    }

    void write(Range groups) const {
        const Projected<T> result{args_.out, nullptr, args_.outputs, false};
        for (int64_t g = groups.first; g < groups.last; ++g)
            for (int64_t t = 0; t < args_.tokens; ++t)
                result(t, g * kGroup, sums_[(g - groups.first) * args_.tokens + t]);
    }

    const ExpertsArgs& args_;
    const Plan plan_;
    const Arrivals arrivals_;
    Form form_;
    f32x16* const sums_;
};

// ---- rows made ready for a form that quantises them ----

struct ExpertRowsArgs {
    const void* x;  // [rows, inputs]
    void* out;
    int64_t rows, inputs, is_bf16, kind;
};

inline int64_t row_pieces(const ExpertRowsArgs& args) {
    return args.rows ? clamp(args.rows * args.inputs / 4096, 1, std::min<int64_t>(args.rows, 64)) : 0;
}
