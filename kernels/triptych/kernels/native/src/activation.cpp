// out = act(gate) · up, element by element.

#include "gates.h"
#include "kernel.h"

namespace {

struct GatedArgs {
    const void *gate, *up;
    void* out;  // may be gate
    int64_t count;
    int64_t is_bf16;
    int64_t act;  // Gate
};

constexpr int64_t kElementsPerPiece = 8192, kUnit = 64;

int64_t pieces(const GatedArgs& args) { return clamp(args.count / kElementsPerPiece, 1, 256); }

template <class T>
void compute(const GatedArgs& args, Range range) {
    const T *gate = static_cast<const T*>(args.gate), *up = static_cast<const T*>(args.up);
    T* out = static_cast<T*>(args.out);
    const Gating gated{args.act, 0, 0};
    int64_t i = range.first;
    for (; i + kLanes <= range.last; i += kLanes) store_f32(out + i, gated(load_f32(gate + i), load_f32(up + i)));
    for (; i < range.last; ++i)
        store_scalar(out + i, gated(splat(load_scalar(gate + i)), splat(load_scalar(up + i)))[0]);
}

void run(const GatedArgs& args, int64_t piece, char*) {
    const Range range = share(args.count, kUnit, piece, pieces(args));
    args.is_bf16 ? compute<bf16>(args, range) : compute<float>(args, range);
}

}  // namespace

TRIPTYCH_KERNEL(gated_mul, GatedArgs, pieces, run)
