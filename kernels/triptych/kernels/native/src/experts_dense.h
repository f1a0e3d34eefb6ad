// Experts whose weights are plain numbers, row-major as checkpoints store them.

#pragma once

#include "dot.h"
#include "experts.h"
#include "panel.h"

constexpr int64_t kFewRows = 8;        // of an expert as a rule: fewer are bound by reading the weights
constexpr int64_t kAhead = 8 << 10;  // bytes of weights that few rows ask for in advance: an expert is short

// Few rows are multiplied by dot products (dot.h), many in panels (panel.h): one answer for all rows of a call, because
// it decides the order of sums.
template <class T>
class DenseForm {
  public:
    struct Group {
        const T* rows[kGroup];
    };

    DenseForm(const ExpertsArgs& args, char* scratch)
        : inputs_(args.inputs), outputs_(args.outputs), panels_(reinterpret_cast<u32x16*>(scratch)),
          many_(args.entries() > kFewRows * args.experts && kRowsAtOnce * row_bytes() <= kGatherBytes) {}

    int64_t row_bytes() const { return inputs_ * sizeof(T); }
    bool many() const { return many_; }
    const T* row(int64_t r) const { return rows_ + r * inputs_; }

    void take(const char* rows, int64_t count) {
        rows_ = reinterpret_cast<const T*>(rows);
        if (many_)
            in_chunks(count, [&](Range chunk) {
                pack_panel(rows_ + chunk.first * inputs_, chunk.last - chunk.first, inputs_, panel(chunk));
            });
    }

    // Beyond the last output it is repeated.
    Group group(const int64_t* addresses, int64_t expert, int64_t output, int64_t) const {
        const T* weight = reinterpret_cast<const T*>(addresses[expert]);
        Group group;
        for (int64_t c = 0; c < kGroup; ++c) group.rows[c] = weight + std::min(output + c, outputs_ - 1) * inputs_;
        return group;
    }

    void multiply(Range chunk, const Group& weight, f32x16* outputs) const {
        const int64_t count = chunk.last - chunk.first;
        if (many_) return panel_group(panel(chunk), count, weight.rows, inputs_, outputs);
        for (int64_t r = 0; r < count; r += kDotRows)
            dot_group<T, kAhead>(row(chunk.first + r), std::min(kDotRows, count - r), weight.rows,
                                 inputs_, outputs + r);
    }

  private:
    u32x16* panel(Range chunk) const { return panels_ + chunk.first / kLanes * panel_words<T>(inputs_); }

    int64_t inputs_, outputs_;
    u32x16* panels_;
    bool many_;
    const T* rows_ = nullptr;
};
