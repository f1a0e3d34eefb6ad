// A mixture of experts whose weights are plain, bfloat16 or float32, row-major as checkpoints store them.

#include "dot.h"
#include "experts.h"

namespace {

template <class T>
class DenseForm {
  public:
    struct Group {
        const T* rows[kGroup];
    };

    DenseForm(const ExpertsArgs& args, char*) : inputs_(args.inputs), outputs_(args.outputs) {}

    int64_t row_bytes() const { return inputs_ * sizeof(T); }

    // Beyond the last output it is repeated.
    Group group(const int64_t* addresses, int64_t expert, int64_t output, int64_t) const {
        const T* weight = reinterpret_cast<const T*>(addresses[expert]);
        Group group;
        for (int64_t c = 0; c < kGroup; ++c) group.rows[c] = weight + std::min(output + c, outputs_ - 1) * inputs_;
        return group;
    }

    void multiply(const char* rows, int64_t count, const Group& weight, f32x16* outputs) const {
        dot_group(reinterpret_cast<const T*>(rows), count, weight.rows, inputs_, outputs);
    }

  private:
    int64_t inputs_, outputs_;
};

void gated(const ExpertsArgs& args, int64_t piece, char* scratch) {
    args.is_bf16 ? GatedUnit<DenseForm<bf16>, bf16>(args, scratch).run(piece)
                 : GatedUnit<DenseForm<float>, float>(args, scratch).run(piece);
}

void sum_up(const ExpertsArgs& args, int64_t piece, char* scratch) {
    args.is_bf16 ? sum_piece<DenseForm<bf16>, bf16>(args, piece, scratch)
                 : sum_piece<DenseForm<float>, float>(args, piece, scratch);
}

}  // namespace

TRIPTYCH_KERNEL(experts_gated, ExpertsArgs, gated_pieces, gated)
TRIPTYCH_KERNEL(experts_sum, ExpertsArgs, sum_pieces, sum_up)
