// Rows on their way between ranks: weighted sums of some, and eight bits in place of a float's.

#include <algorithm>

#include "kernel.h"
#include "simd.h"

namespace {

constexpr int64_t kElementsPerPiece = 16384;

// Sixteen numbers of a row, or the last of it with zeros behind them.
template <class T>
TRIPTYCH_INLINE f32x16 load_some(const T* x, int64_t count) {
    if (count >= kLanes) return load_f32(x);
    T values[kLanes] = {};
    std::memcpy(values, x, count * sizeof(T));
    return load_f32(values);
}

template <class T>
TRIPTYCH_INLINE void store_some(T* out, f32x16 v, int64_t count) {
    if (count >= kLanes) return store_f32(out, v);
    T values[kLanes];
    store_f32(values, v);
    std::memcpy(out, values, count * sizeof(T));
}

// ---- out[t] = Σ weights[t, k] · x[places[t, k]], in the order of k, as experts.h adds up the experts of a token ----

struct SumRowsArgs {
    const void* x;
    const int64_t* places;  // [rows, top_k]
    const float* weights;   // [rows, top_k]
    void* out;              // [rows, width]
    int64_t rows, top_k, width;
    int64_t stride;  // from one row of x to the next, in elements
    int64_t is_bf16;
};

int64_t sum_pieces(const SumRowsArgs& args) {
    return args.rows ? clamp(args.rows * args.width * args.top_k / kElementsPerPiece, 1, std::min<int64_t>(args.rows, 256)) : 0;
}

template <class T>
void sum_row(const SumRowsArgs& args, int64_t row) {
    const T* x = static_cast<const T*>(args.x);
    T* out = static_cast<T*>(args.out) + row * args.width;
    for (int64_t i = 0; i < args.width; i += kLanes) {
        f32x16 total{};
        for (int64_t k = row * args.top_k; k < (row + 1) * args.top_k; ++k)
            total = fma(load_some(x + args.places[k] * args.stride + i, args.width - i), splat(args.weights[k]), total);
        store_some(out + i, total, args.width - i);
    }
}

void sum_rows(const SumRowsArgs& args, int64_t piece, char*) {
    const Range rows = share(args.rows, 1, piece, sum_pieces(args));
    for (int64_t row = rows.first; row < rows.last; ++row)
        args.is_bf16 ? sum_row<bf16>(args, row) : sum_row<float>(args, row);
}

// ---- eight bits ----

struct EightBitArgs {
    void* x;        // [rows, width]: read, or written
    void* values;   // [rows, width]: written, or read
    float* scales;  // [rows]
    int64_t rows, width;
    int64_t x_stride;       // from one row to the next, in elements
    int64_t value_stride;   // in bytes
    int64_t scale_stride;   // in floats
    int64_t is_bf16;
    int64_t is_fp8;  // float8_e4m3fn, else int8
};

int64_t eight_bit_pieces(const EightBitArgs& args) {
    return args.rows ? clamp(args.rows * args.width / kElementsPerPiece, 1, std::min<int64_t>(args.rows, 256)) : 0;
}

constexpr float kSmallestPeak = 0x1p-117f;       // of a row that is not taken for zeros, as rows.py has it
constexpr int32_t kSmallestNormal = 0x3c800000;  // 2^-6

TRIPTYCH_INLINE i32x16 size_bits(f32x16 x) { return (i32x16)x & 0x7fffffff; }

// |x| <= 448 to the nearest of float8_e4m3fn, ties to even. Carries of the mantissa go into the exponent.
TRIPTYCH_INLINE i32x16 to_fp8(f32x16 x) {
    const i32x16 size = size_bits(x);
    const i32x16 normal = ((size + 0x7ffff + ((size >> 20) & 1)) >> 20) - (120 << 3);
    const i32x16 small = round_to_int((f32x16)size * 512.0f);  // in units of 2^-9
    return (size < kSmallestNormal ? small : normal) | (((i32x16)x >> 24) & 0x80);
}

TRIPTYCH_INLINE f32x16 from_fp8(i32x16 code) {
    const i32x16 size = code & 0x7f;
    const f32x16 normal = (f32x16)((size << 20) + (120 << 23));
    const f32x16 value = size < 8 ? to_float(size) * 0x1p-9f : normal;
    return (f32x16)((i32x16)value | ((code & 0x80) << 24));
}

template <class T>
void quantize_row(const EightBitArgs& args, int64_t row) {
    const T* x = static_cast<const T*>(args.x) + row * args.x_stride;
    uint8_t* values = static_cast<uint8_t*>(args.values) + row * args.value_stride;
    const float most = args.is_fp8 ? 448.0f : 127.0f;
    i32x16 sizes{};  // in the order of whole numbers NaN is the largest
    for (int64_t i = 0; i < args.width; i += kLanes) {
        const i32x16 size = size_bits(load_some(x + i, args.width - i));
        sizes = size > sizes ? size : sizes;
    }
    const int32_t bits = largest(sizes);
    float peak;
    std::memcpy(&peak, &bits, sizeof peak);
    if (peak < kSmallestPeak) peak = 0;
    args.scales[row * args.scale_stride] = peak / most;
    const f32x16 factor = splat(most / (peak > 0 ? peak : most));
    for (int64_t i = 0; i < args.width; i += kLanes) {
        const f32x16 scaled = max(min(load_some(x + i, args.width - i) * factor, splat(most)), splat(-most));
        const i32x16 code = args.is_fp8 ? to_fp8(scaled) : round_to_int(scaled);
        const u8x16 bytes = __builtin_convertvector((u32x16)code, u8x16);
        std::memcpy(values + i, &bytes, std::min(kLanes, args.width - i));
    }
}

template <class T>
void dequantize_row(const EightBitArgs& args, int64_t row) {
    const uint8_t* values = static_cast<const uint8_t*>(args.values) + row * args.value_stride;
    T* out = static_cast<T*>(args.x) + row * args.x_stride;
    const f32x16 scale = splat(args.scales[row * args.scale_stride]);
    for (int64_t i = 0; i < args.width; i += kLanes) {
        u8x16 bytes{};
        std::memcpy(&bytes, values + i, std::min(kLanes, args.width - i));
        const f32x16 number = args.is_fp8 ? from_fp8(to_int(bytes)) : to_float((i8x16)bytes);
        store_some(out + i, number * scale, args.width - i);
    }
}

void quantize(const EightBitArgs& args, int64_t piece, char*) {
    const Range rows = share(args.rows, 1, piece, eight_bit_pieces(args));
    for (int64_t row = rows.first; row < rows.last; ++row)
        args.is_bf16 ? quantize_row<bf16>(args, row) : quantize_row<float>(args, row);
}

void dequantize(const EightBitArgs& args, int64_t piece, char*) {
    const Range rows = share(args.rows, 1, piece, eight_bit_pieces(args));
    for (int64_t row = rows.first; row < rows.last; ++row)
        args.is_bf16 ? dequantize_row<bf16>(args, row) : dequantize_row<float>(args, row);
}

}  // namespace

TRIPTYCH_KERNEL(sum_rows, SumRowsArgs, sum_pieces, sum_rows)
TRIPTYCH_KERNEL(quantize_rows, EightBitArgs, eight_bit_pieces, quantize)
TRIPTYCH_KERNEL(dequantize_rows, EightBitArgs, eight_bit_pieces, dequantize)
