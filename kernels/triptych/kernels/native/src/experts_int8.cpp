// A mixture of experts whose weights are int8 (int8_rows.h).

#include "experts.h"
#include "int8_rows.h"

namespace {

class Int8Form {
  public:
    Int8Form(const ExpertsArgs& args, char*)
        : experts_(args.experts), outputs_(args.outputs), words_(words_of(args.inputs)), blocks_(blocks_of(args.inputs)) {}

    int64_t row_bytes() const { return blocks_ * sizeof(RowBlock); }

    Group group(const int64_t* addresses, int64_t expert, int64_t output, int64_t) const {
        const int64_t bytes = std::min(kGroup, outputs_ - output) * sizeof(float);
        const auto* scales = reinterpret_cast<const float*>(addresses[experts_ + expert]);
        return {reinterpret_cast<const int8_t*>(addresses[expert]) + output * words_ * kWordInputs,
                load_first<f32x16>(scales + output, bytes)};
    }

    void take(const char* rows, int64_t) { rows_ = reinterpret_cast<const RowBlock*>(rows); }

    void multiply(Range chunk, const Group& weight, f32x16* outputs) const {
        for (int64_t r = chunk.first; r < chunk.last; r += kDotRows)
            dot_rows<kDotRows>(rows_ + r * blocks_, std::min<int64_t>(kDotRows, chunk.last - r), weight, words_,
                               outputs + r - chunk.first);
    }

  private:
    int64_t experts_, outputs_, words_, blocks_;
    const RowBlock* rows_ = nullptr;
};

void quantise_rows(const ExpertRowsArgs& args, int64_t piece, char*) {
    const Range rows = share(args.rows, 1, piece, row_pieces(args));
    for (int64_t row = rows.first; row < rows.last; ++row) {
        auto* out = static_cast<RowBlock*>(args.out) + row * blocks_of(args.inputs);
        args.is_bf16 ? quantise_row(static_cast<const bf16*>(args.x) + row * args.inputs, args.inputs, out)
                     : quantise_row(static_cast<const float*>(args.x) + row * args.inputs, args.inputs, out);
    }
}

void gated(const ExpertsArgs& args, int64_t piece, char* scratch) {
    args.is_bf16 ? GatedUnit<Int8Form, bf16>(args, scratch).run(piece)
                 : GatedUnit<Int8Form, float>(args, scratch).run(piece);
}

void sum_up(const ExpertsArgs& args, int64_t piece, char* scratch) {
    args.is_bf16 ? Sum<Int8Form, bf16>(args, scratch).run(piece) : Sum<Int8Form, float>(args, scratch).run(piece);
}

}  // namespace

TRIPTYCH_KERNEL(experts_rows, ExpertRowsArgs, row_pieces, quantise_rows)
TRIPTYCH_KERNEL(experts_gated, ExpertsArgs, gated_pieces, gated)
TRIPTYCH_KERNEL(experts_sum, ExpertsArgs, sum_pieces, sum_up)
