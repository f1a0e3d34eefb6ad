// A mixture of experts whose weights are GGUF blocks, for float32 rows: sixteen outputs' weights at a time become
// float32, which is exact, and are multiplied like plain ones.

#include "dot.h"
#include "experts.h"
#include "gguf.h"

namespace {

static_assert(2 * kGroup * kMaxInputs * int64_t{sizeof(float)} <= kFormBytes);

template <class Kind>
class FloatForm {
  public:
    struct Group {
        const float* rows[kGroup];
    };

    FloatForm(const ExpertsArgs& args, char* scratch)
        : inputs_(args.inputs), outputs_(args.outputs), weights_(reinterpret_cast<float*>(scratch)) {}

    int64_t row_bytes() const { return inputs_ * sizeof(float); }

    // Beyond the last output it is repeated.
    Group group(const int64_t* addresses, int64_t expert, int64_t output, int64_t place) const {
        const auto* weight = reinterpret_cast<const uint8_t*>(addresses[expert]);
        const int64_t blocks = inputs_ / kBlock;
        Group group;
        for (int64_t c = 0; c < kGroup; ++c) {
            const uint8_t* row = weight + std::min(output + c, outputs_ - 1) * packed_bytes<Kind>(blocks);
            float* values = weights_ + (place * kGroup + c) * inputs_;
            dequantize_row<Kind>(row, blocks, values);
            group.rows[c] = values;
        }
        return group;
    }

    void take(const char* rows, int64_t) { rows_ = reinterpret_cast<const float*>(rows); }

    void multiply(Range chunk, const Group& weight, f32x16* outputs) const {
        for (int64_t r = chunk.first; r < chunk.last; r += kDotRows)
            dot_group<float, 0>(rows_ + r * inputs_, std::min(kDotRows, chunk.last - r), weight.rows, inputs_,
                                outputs + r - chunk.first);
    }

  private:
    int64_t inputs_, outputs_;
    float* weights_;
    const float* rows_ = nullptr;
};

void gated(const ExpertsArgs& args, int64_t piece, char* scratch) {
    with_kind(args.kind, [&]<class Kind>(Kind) { GatedUnit<FloatForm<Kind>, float>(args, scratch).run(piece); });
}

void sum_up(const ExpertsArgs& args, int64_t piece, char* scratch) {
    with_kind(args.kind, [&]<class Kind>(Kind) { Sum<FloatForm<Kind>, float>(args, scratch).run(piece); });
}

}  // namespace

TRIPTYCH_KERNEL(experts_gated, ExpertsArgs, gated_pieces, gated)
TRIPTYCH_KERNEL(experts_sum, ExpertsArgs, sum_pieces, sum_up)
