// How projections by plain weights are shared out, and rows of x made ready for either form of kernel.

#pragma once

#include "dot.h"
#include "panel.h"

constexpr int64_t kFewRows = 11;           // above, transposing x costs less than adding up lanes
constexpr int64_t kPieceBytes = 64 << 10;  // of weights that a piece of few rows reads
constexpr int64_t kPanelBytes = 448 << 10; // of panels that stay in the second-level cache
constexpr int64_t kGroups = 8;             // of outputs that a panel is packed for, at least
constexpr int64_t kPieces = 16;            // that share out many rows, as far as the sizes above allow

// Whether rows are multiplied as panels; one answer for all rows of a call, because it decides the order of sums.
inline bool many(int64_t rows, int64_t inner, int64_t is_bf16) {
    return rows > kFewRows && kPanelRows * inner * (is_bf16 ? 2 : 4) <= kScratchBytes - 64 * kPanelRows;
}

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
