// Factors and caps of whole tensors, and the sum of a residual stream with its copy; element by element.

#include <algorithm>

#include "kernel.h"
#include "simd.h"

namespace {

enum Step : int64_t {
    kScale,    // out = number · x
    kSoftcap,  // out = number · tanh(x / number)
    kAddTo,    // out = residual = residual + x
};

struct ScalingArgs {
    const void* x;
    void* residual;  // null but for kAddTo
    void* out;       // may be x
    int64_t count;
    int64_t is_bf16;
    int64_t step;
    double number;
};

constexpr int64_t kElementsPerPiece = 8192, kUnit = 64;

int64_t pieces(const ScalingArgs& args) { return clamp(args.count / kElementsPerPiece, 1, 256); }

template <class T, class Value>
void compute(const ScalingArgs& args, Range range, Value&& value) {
    const T* x = static_cast<const T*>(args.x);
    T *out = static_cast<T*>(args.out), *residual = static_cast<T*>(args.residual);
    int64_t i = range.first;
    for (; i + kLanes <= range.last; i += kLanes) {
        const f32x16 result = value(load_f32(x + i), residual ? load_f32(residual + i) : f32x16{});
        store_f32(out + i, result);
        if (residual) store_f32(residual + i, result);
    }
    for (; i < range.last; ++i) {
        const f32x16 result = value(splat(load_scalar(x + i)), splat(residual ? load_scalar(residual + i) : 0.0f));
        store_scalar(out + i, result[0]);
        if (residual) store_scalar(residual + i, result[0]);
    }
}

template <class T>
void compute(const ScalingArgs& args, Range range) {
    const float number = static_cast<float>(args.number);
    if (args.step == kScale) return compute<T>(args, range, [=](f32x16 x, f32x16) { return x * number; });
    if (args.step == kAddTo) return compute<T>(args, range, [](f32x16 x, f32x16 residual) { return x + residual; });
    compute<T>(args, range, [=](f32x16 x, f32x16) { return tanh(x / number) * number; });
}

void run(const ScalingArgs& args, int64_t piece, char*) {
    const Range range = share(args.count, kUnit, piece, pieces(args));
    args.is_bf16 ? compute<bf16>(args, range) : compute<float>(args, range);
}

struct GatedArgs {
    const void* x;        // [rows, width]
    const float* logits;  // [rows], or null
    void* out;            // [rows, width], updated
    int64_t rows, width;
    int64_t is_bf16;
};

int64_t gated_pieces(const GatedArgs& args) {
    return args.rows ? clamp(args.rows * args.width / kElementsPerPiece, 1, std::min<int64_t>(args.rows, 256)) : 0;
}

template <class T>
void add_gated(const GatedArgs& args, int64_t row) {
    const T* x = static_cast<const T*>(args.x) + row * args.width;
    T* out = static_cast<T*>(args.out) + row * args.width;
    const f32x16 share = args.logits ? 1.0f / (exp(splat(-args.logits[row])) + 1.0f) : splat(1.0f);
    int64_t i = 0;
    for (; i + kLanes <= args.width; i += kLanes) store_f32(out + i, fma(load_f32(x + i), share, load_f32(out + i)));
    for (; i < args.width; ++i) store_scalar(out + i, load_scalar(x + i) * share[0] + load_scalar(out + i));
}

void run_gated(const GatedArgs& args, int64_t piece, char*) {
    const Range rows = share(args.rows, 1, piece, gated_pieces(args));
    for (int64_t row = rows.first; row < rows.last; ++row)
        args.is_bf16 ? add_gated<bf16>(args, row) : add_gated<float>(args, row);
}

}  // namespace

TRIPTYCH_KERNEL(scaling, ScalingArgs, pieces, run)
TRIPTYCH_KERNEL(add_gated, GatedArgs, gated_pieces, run_gated)
