// A mixture of experts whose weights are GGUF blocks, for bfloat16 rows (gguf_dot.h).

#include "experts.h"
#include "gguf_dot.h"

namespace {

template <class Kind>
class GgufForm {
  public:
    struct Group {
        const uint8_t* rows[kGroup];
    };

    GgufForm(const ExpertsArgs& args, char*)
        : outputs_(args.outputs), blocks_(args.inputs / kBlock), groups_(row_groups<Kind>(args.inputs)) {}

    int64_t row_bytes() const { return groups_ * sizeof(typename Kind::Row); }

    // Beyond the last output it is repeated.
    Group group(const int64_t* addresses, int64_t expert, int64_t output, int64_t) const {
        const auto* weight = reinterpret_cast<const uint8_t*>(addresses[expert]);
        Group group;
        for (int64_t c = 0; c < kGroup; ++c)
            group.rows[c] = weight + std::min(output + c, outputs_ - 1) * packed_bytes<Kind>(blocks_);
        return group;
    }

    void take(const char* rows, int64_t) { rows_ = reinterpret_cast<const typename Kind::Row*>(rows); }

    void multiply(Range chunk, const Group& weight, f32x16* outputs) const {
        for (int64_t r = chunk.first; r < chunk.last; r += kDotRows)
            dot_rows<Kind, kDotRows>(rows_ + r * groups_, std::min<int64_t>(kDotRows, chunk.last - r), weight.rows,
                                     blocks_, outputs + r - chunk.first);
    }

  private:
    int64_t outputs_, blocks_, groups_;
    const typename Kind::Row* rows_ = nullptr;
};

void quantise_rows(const ExpertRowsArgs& args, int64_t piece, char*) {
    const Range rows = share(args.rows, 1, piece, row_pieces(args));
    with_kind(args.kind, [&]<class Kind>(Kind) {
        auto* out = static_cast<typename Kind::Row*>(args.out);
        for (int64_t row = rows.first; row < rows.last; ++row)
            quantise_row<Kind>(static_cast<const bf16*>(args.x) + row * args.inputs, args.inputs,
                               out + row * row_groups<Kind>(args.inputs));
    });
}

void gated(const ExpertsArgs& args, int64_t piece, char* scratch) {
    with_kind(args.kind, [&]<class Kind>(Kind) { GatedUnit<GgufForm<Kind>, bf16>(args, scratch).run(piece); });
}

void sum_up(const ExpertsArgs& args, int64_t piece, char* scratch) {
    with_kind(args.kind, [&]<class Kind>(Kind) { Sum<GgufForm<Kind>, bf16>(args, scratch).run(piece); });
}

}  // namespace

TRIPTYCH_KERNEL(experts_rows, ExpertRowsArgs, row_pieces, quantise_rows)
TRIPTYCH_KERNEL(experts_gated, ExpertsArgs, gated_pieces, gated)
TRIPTYCH_KERNEL(experts_sum, ExpertsArgs, sum_pieces, sum_up)
