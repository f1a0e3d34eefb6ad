// A mixture of experts whose weights are plain, bfloat16 or float32.

#include "experts_dense.h"

namespace {

void gated(const ExpertsArgs& args, int64_t piece, char* scratch) {
    args.is_bf16 ? GatedUnit<DenseForm<bf16>, bf16>(args, scratch).run(piece)
                 : GatedUnit<DenseForm<float>, float>(args, scratch).run(piece);
}

void sum_up(const ExpertsArgs& args, int64_t piece, char* scratch) {
    args.is_bf16 ? Sum<DenseForm<bf16>, bf16>(args, scratch).run(piece)
                 : Sum<DenseForm<float>, float>(args, scratch).run(piece);
}

}  // namespace

TRIPTYCH_KERNEL(experts_gated, ExpertsArgs, gated_pieces, gated)
TRIPTYCH_KERNEL(experts_sum, ExpertsArgs, sum_pieces, sum_up)
