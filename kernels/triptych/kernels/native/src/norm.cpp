// Root-mean-square norm of x, or of x + residual. The sum is rounded to the type of the rows before it is normalised:
// it goes back into residual, or, where rows are picked, no further than `out`.

#include "kernel.h"
#include "simd.h"

namespace {

struct NormArgs {
    const void* x;          // [.., width]
    void* residual;         // [.., width], updated unless rows are picked; or null
    const int64_t* picked;  // [rows], the rows of x and residual; null for all in their order
    const void* weight;     // [width], of the type of the rows or float32
    void* out;              // [rows, width]
    int64_t rows, width;
    int64_t is_bf16, wide_weight;
    double eps;
};

constexpr int64_t kElementsPerPiece = 4096;

int64_t pieces(const NormArgs& args) {
    return clamp(args.rows * args.width / kElementsPerPiece, 1, clamp(args.rows, 1, 256));
}

// sums = x + residual; returns the sum of their squares as rounded.
template <class T>
float add(const T* x, const T* residual, T* sums, int64_t width) {
    f32x16 squares{};
    float rest = 0;
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) {
        store_f32(sums + i, load_f32(x + i) + load_f32(residual + i));
        const f32x16 value = load_f32(sums + i);
        squares = fma(value, value, squares);
    }
    for (; i < width; ++i) {
        store_scalar(sums + i, load_scalar(x + i) + load_scalar(residual + i));
        rest += load_scalar(sums + i) * load_scalar(sums + i);
    }
    return sum(squares) + rest;
}

template <class T>
float sum_of_squares(const T* x, int64_t width) {
    f32x16 squares{};
    float rest = 0;
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) squares = fma(load_f32(x + i), load_f32(x + i), squares);
    for (; i < width; ++i) rest += load_scalar(x + i) * load_scalar(x + i);
    return sum(squares) + rest;
}

template <class T, class W>
void scaled(const T* x, const W* weight, float scale, T* out, int64_t width) {
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) store_f32(out + i, load_f32(x + i) * scale * load_f32(weight + i));
    for (; i < width; ++i) store_scalar(out + i, load_scalar(x + i) * scale * load_scalar(weight + i));
}

template <class T>
void one_row(const NormArgs& args, int64_t row) {
    const int64_t width = args.width, from = (args.picked ? args.picked[row] : row) * width;
    const T* values = static_cast<const T*>(args.x) + from;
    T* out = static_cast<T*>(args.out) + row * width;
    float squares;
    if (args.residual) {
        T* residual = static_cast<T*>(args.residual) + from;
        T* sums = args.picked ? out : residual;
        squares = add(values, residual, sums, width);
        values = sums;
    } else {
        squares = sum_of_squares(values, width);
    }
    const float scale = 1.0f / std::sqrt(squares / width + static_cast<float>(args.eps));
    args.wide_weight ? scaled(values, static_cast<const float*>(args.weight), scale, out, width)
                     : scaled(values, static_cast<const T*>(args.weight), scale, out, width);
}

void run(const NormArgs& args, int64_t piece, char*) {
    const Range rows = share(args.rows, 1, piece, pieces(args));
    for (int64_t row = rows.first; row < rows.last; ++row)
        args.is_bf16 ? one_row<bf16>(args, row) : one_row<float>(args, row);
}

}  // namespace

TRIPTYCH_KERNEL(norm, NormArgs, pieces, run)
