// out = silu(gate) · up, element by element.

#include "kernel.h"
#include "simd.h"

namespace {

struct SiluMulArgs {
    const void *gate, *up;
    void* out;  // may be gate
    int64_t count;
    int64_t is_bf16;
};

constexpr int64_t kElementsPerPiece = 8192, kUnit = 64;

int64_t pieces(const SiluMulArgs& args) { return clamp(args.count / kElementsPerPiece, 1, 256); }

TRIPTYCH_INLINE f32x16 silu_mul(f32x16 gate, f32x16 up) { return gate / (1.0f + exp(-gate)) * up; }

template <class T>
void compute(const SiluMulArgs& args, Range range) {
    const T *gate = static_cast<const T*>(args.gate), *up = static_cast<const T*>(args.up);
    T* out = static_cast<T*>(args.out);
    int64_t i = range.first;
    for (; i + kLanes <= range.last; i += kLanes) store_f32(out + i, silu_mul(load_f32(gate + i), load_f32(up + i)));
    for (; i < range.last; ++i)
        store_scalar(out + i, silu_mul(splat(load_scalar(gate + i)), splat(load_scalar(up + i)))[0]);
}

void run(const SiluMulArgs& args, int64_t piece, char*) {
    const Range range = share(args.count, kUnit, piece, pieces(args));
    args.is_bf16 ? compute<bf16>(args, range) : compute<float>(args, range);
}

}  // namespace

TRIPTYCH_KERNEL(silu_mul, SiluMulArgs, pieces, run)
