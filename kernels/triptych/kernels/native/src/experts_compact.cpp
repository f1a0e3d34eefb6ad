// A mixture of experts whose weights are bfloat16 in twelve bits (compact.h): few rows are multiplied by what a register
// of them stands for, many, and rows of odd halves of blocks, by sixteen outputs' weights made plain. Sums have the bits
// of plain weights.

#include "compact.h"
#include "experts_dense.h"

namespace {

constexpr int64_t kPanelBytes = kGatherBytes;  // of a form's scratch: what many rows take; weights made plain are behind
static_assert(kPanelBytes + 2 * kGroup * kMaxInputs * int64_t{sizeof(bf16)} <= kFormBytes);

class CompactForm {
  public:
    struct Group {
        CompactRows compact;
        DenseForm<bf16>::Group plain;  // where it is not multiplied in registers
    };

    CompactForm(const ExpertsArgs& args, char* scratch)
        : dense_(args, scratch), plain_(reinterpret_cast<bf16*>(scratch + kPanelBytes)), experts_(args.experts),
          inputs_(args.inputs), outputs_(args.outputs), in_registers_(!dense_.many() && args.inputs % kCompactColumns == 0) {}

    int64_t row_bytes() const { return dense_.row_bytes(); }

    void take(const char* rows, int64_t count) { dense_.take(rows, count); }

    Group group(const int64_t* addresses, int64_t expert, int64_t output, int64_t place) const {
        const CompactRows compact(reinterpret_cast<const uint8_t*>(addresses[expert]),
                                  reinterpret_cast<const int32_t*>(addresses[experts_ + expert]), outputs_, inputs_, output);
        Group group{compact, {}};
        if (in_registers_) return group;
        bf16* plain = plain_ + place * kGroup * inputs_;
        compact.expand(plain);
        for (int64_t c = 0; c < kGroup; ++c) group.plain.rows[c] = plain + c * inputs_;
        return group;
    }

    void multiply(Range chunk, const Group& weight, f32x16* outputs) const {
        if (!in_registers_) return dense_.multiply(chunk, weight.plain, outputs);
        const int64_t count = chunk.last - chunk.first;
        for (int64_t r = 0; r < count; r += kDotRows)
            dot_weight(dense_.row(chunk.first + r), std::min(kDotRows, count - r), weight.compact, inputs_, outputs + r);
    }

  private:
    DenseForm<bf16> dense_;
    bf16* plain_;
    int64_t experts_, inputs_, outputs_;
    bool in_registers_;
};

void gated(const ExpertsArgs& args, int64_t piece, char* scratch) { GatedUnit<CompactForm, bf16>(args, scratch).run(piece); }

void sum_up(const ExpertsArgs& args, int64_t piece, char* scratch) { Sum<CompactForm, bf16>(args, scratch).run(piece); }

}  // namespace

TRIPTYCH_KERNEL(experts_gated, ExpertsArgs, gated_pieces, gated)
TRIPTYCH_KERNEL(experts_sum, ExpertsArgs, sum_pieces, sum_up)
