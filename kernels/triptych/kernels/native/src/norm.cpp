// out[t] = (x[t] + residual[t]) / rms · weight, the sum going back into residual; without residual plain RMSNorm.

#include "kernel.h"
#include "simd.h"

namespace {

struct NormArgs {
    const void* x;         // [rows, width]
    void* residual;        // [rows, width], updated; or null
    const void* weight;    // [width]
    void* out;             // [rows, width]
    int64_t rows, width;
    int64_t is_bf16;
    double eps;
};

int64_t pieces(const NormArgs& args) { return clamp(args.rows * args.width / 4096, 1, clamp(args.rows, 1, 64)); }

template <class T>
void one_row(const NormArgs& args, int64_t row) {
    const int64_t width = args.width, whole = width / kLanes * kLanes;
    const T* x = static_cast<const T*>(args.x) + row * width;
    T* residual = args.residual ? static_cast<T*>(args.residual) + row * width : nullptr;
    const T* weight = static_cast<const T*>(args.weight);
    T* out = static_cast<T*>(args.out) + row * width;
    f32x16 squares{};
    float rest = 0;
    for (int64_t i = 0; i < whole; i += kLanes) {
        f32x16 value = load_f32(x + i);
        if (residual) {
            store_f32(residual + i, value + load_f32(residual + i));
            value = load_f32(residual + i);  // as rounded
        }
        squares = fma(value, value, squares);
    }
    for (int64_t i = whole; i < width; ++i) {
        if (residual) store_scalar(residual + i, load_scalar(x + i) + load_scalar(residual + i));
        const float value = load_scalar((residual ? residual : x) + i);
        rest += value * value;
    }
    const float scale = 1.0f / std::sqrt((sum(squares) + rest) / width + static_cast<float>(args.eps));
    const T* values = residual ? residual : x;
    for (int64_t i = 0; i < whole; i += kLanes)
        store_f32(out + i, load_f32(values + i) * scale * load_f32(weight + i));
    for (int64_t i = whole; i < width; ++i)
        store_scalar(out + i, load_scalar(values + i) * scale * load_scalar(weight + i));
}

void run(const NormArgs& args, int64_t piece, char*) {
    const Range rows = share(args.rows, 1, piece, pieces(args));
    for (int64_t row = rows.first; row < rows.last; ++row)
        args.is_bf16 ? one_row<bf16>(args, row) : one_row<float>(args, row);
}

}  // namespace

TRIPTYCH_KERNEL(norm, NormArgs, pieces, run)
