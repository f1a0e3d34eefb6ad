// Projections of float32 rows by weights in GGUF blocks: sixteen outputs' weights at a time become float32, which is
// exact, and are multiplied like plain ones.

#include "dot.h"
#include "gguf.h"
#include "panel.h"
#include "products.h"

namespace {

// The Form of products.h.
template <class Kind>
class FloatForm {
  public:
    struct Group {
        const float* rows[kGroup];
    };

    FloatForm(const ProductArgs& args, Range rows, char* scratch)
        : x_(static_cast<const float*>(args.x)), first_(rows.first), inputs_(args.inputs),
          weights_(reinterpret_cast<float*>(scratch)) {
        const int64_t chunks = chunks_of(rows.last - rows.first);
        const int64_t bytes = (2 * kGroup + chunks * kChunkRows) * inputs_ * int64_t{sizeof(float)};
        if (args.rows <= Cut::kFew || bytes > kScratchBytes) return;
        panels_ = reinterpret_cast<u32x16*>(weights_ + 2 * kGroup * inputs_);
        for (int64_t i = 0; i < chunks; ++i) {
            const Range chunk = chunk_of(rows, i);
            pack_panel(x_ + chunk.first * inputs_, chunk.last - chunk.first, inputs_, panel(chunk));
        }
    }

    Group group(const ProductPart& part, int64_t output, int64_t place) const {
        Group group;
        const int64_t blocks = inputs_ / kBlock;
        for (int64_t c = 0; c < kGroup; ++c) {
            const int64_t row = std::min(output + c, part.outputs - 1);  // beyond the last output it is repeated
            const uint8_t* weight = static_cast<const uint8_t*>(part.weight) + row * packed_bytes<Kind>(blocks);
            float* values = weights_ + (place * kGroup + c) * inputs_;
            dequantize_row<Kind>(weight, blocks, values);
            group.rows[c] = values;
        }
        return group;
    }

    void multiply(Range chunk, const Group& weight, f32x16* outputs) const {
        if (panels_) return panel_group<float>(panel(chunk), chunk.last - chunk.first, weight.rows, inputs_, outputs);
        for (int64_t row = chunk.first; row < chunk.last; row += kDotRows, outputs += kDotRows)
            dot_group<float>(x_ + row * inputs_, std::min(kDotRows, chunk.last - row), weight.rows, inputs_, outputs);
    }

  private:
    u32x16* panel(Range chunk) const { return panels_ + (chunk.first - first_) / kLanes * inputs_; }

    const float* const x_;
    const int64_t first_, inputs_;
    float* const weights_;
    u32x16* panels_ = nullptr;
};

void product(const ProductArgs& args, int64_t piece, char* scratch) {
    with_kind(args.kind, [&]<class Kind>(Kind) { product_piece<FloatForm<Kind>, float>(args, piece, scratch); });
}

}  // namespace

TRIPTYCH_KERNEL(gguf_product_f32, ProductArgs, product_pieces, product)
