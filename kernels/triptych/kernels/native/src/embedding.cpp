// Rows of a weight in any of its forms (kernels/weights.py), as numbers.

#include "kernel.h"
#include "simd.h"

namespace {

enum Form : int64_t { kBf16, kF32, kInt8, kQ4_0, kQ4_1, kQ8_0 };

struct EmbeddingArgs {
    const int64_t* ids;   // [rows]
    const void* values;   // the weight
    const float* scales;  // of int8, else null
    void* out;            // [rows, width]
    int64_t rows, width;
    int64_t outputs;  // rows of the weight
    int64_t form, is_bf16;
};

constexpr int64_t kElementsPerPiece = 8192, kBlock = 32;
constexpr int64_t kInt8Outputs = 16, kInt8Inputs = 4;

int64_t pieces(const EmbeddingArgs& args) {
    return clamp(args.rows * args.width / kElementsPerPiece, 1, clamp(args.rows, 1, 256));
}

template <class From, class T>
void plain(const EmbeddingArgs& args, int64_t id, T* out) {
    const From* values = static_cast<const From*>(args.values) + id * args.width;
    int64_t i = 0;
    for (; i + kLanes <= args.width; i += kLanes) store_f32(out + i, load_f32(values + i));
    for (; i < args.width; ++i) store_scalar(out + i, load_scalar(values + i));
}

template <class T>
void int8(const EmbeddingArgs& args, int64_t id, T* out) {
    const int64_t tiles = (args.width + kInt8Inputs - 1) / kInt8Inputs, tile = kInt8Outputs * kInt8Inputs;
    const int8_t* values =
        static_cast<const int8_t*>(args.values) + id / kInt8Outputs * tiles * tile + id % kInt8Outputs * kInt8Inputs;
    for (int64_t i = 0; i < args.width; ++i)
        store_scalar(out + i, values[i / kInt8Inputs * tile + i % kInt8Inputs] * args.scales[id]);
}

float half_at(const uint8_t* p) {
    f16 half;
    std::memcpy(&half, p, 2);
    return half_to_float(half);
}

// The products of a scale (11 significant bits) and a quantised number (at most 8) are exact in float32.
template <Form form>
void unpack(const uint8_t* block, float* out) {
    const float scale = half_at(block);
    if constexpr (form == kQ8_0) {
        for (int i = 0; i < kBlock; ++i) out[i] = static_cast<int8_t>(block[2 + i]) * scale;
    } else {
        const float base = form == kQ4_1 ? half_at(block + 2) : -8 * scale;
        const uint8_t* packed = block + (form == kQ4_1 ? 4 : 2);
        for (int i = 0; i < kBlock / 2; ++i) {
            out[i] = (packed[i] & 15) * scale + base;
            out[i + kBlock / 2] = (packed[i] >> 4) * scale + base;
        }
    }
}

template <Form form, class T>
void blocks(const EmbeddingArgs& args, int64_t id, T* out) {
    constexpr int64_t bytes = form == kQ4_0 ? 18 : form == kQ4_1 ? 20 : 34;
    const uint8_t* block = static_cast<const uint8_t*>(args.values) + id * (args.width / kBlock * bytes);
    for (int64_t i = 0; i < args.width; i += kBlock, block += bytes) {
        float values[kBlock];
        unpack<form>(block, values);
        for (int64_t j = 0; j < kBlock; j += kLanes) store_f32(out + i + j, load<f32x16>(values + j));
    }
}

template <class T>
void one_row(const EmbeddingArgs& args, int64_t row) {
    const int64_t id = clamp(args.ids[row], 0, args.outputs - 1);  // whatever the id, nothing outside is read
    T* out = static_cast<T*>(args.out) + row * args.width;
    switch (args.form) {
        case kBf16: return plain<bf16>(args, id, out);
        case kF32: return plain<float>(args, id, out);
        case kInt8: return int8(args, id, out);
        case kQ4_0: return blocks<kQ4_0>(args, id, out);
        case kQ4_1: return blocks<kQ4_1>(args, id, out);
        case kQ8_0: return blocks<kQ8_0>(args, id, out);
    }
}

void run(const EmbeddingArgs& args, int64_t piece, char*) {
    const Range rows = share(args.rows, 1, piece, pieces(args));
    for (int64_t row = rows.first; row < rows.last; ++row)
        args.is_bf16 ? one_row<bf16>(args, row) : one_row<float>(args, row);
}

}  // namespace

TRIPTYCH_KERNEL(embedding, EmbeddingArgs, pieces, run)
