// Rows of a weight in any of its forms (kernels/weights.py), as numbers.

#include "gguf.h"
#include "kernel.h"

namespace {

enum Form : int64_t { kBf16, kF32, kInt8, kGguf };  // and the kinds of block from kGguf on

struct EmbeddingArgs {
    const int64_t* ids;   // [rows]
    const void* values;   // the weight
    const float* scales;  // of int8, else null
    void* out;            // [rows, width]
    int64_t rows, width;
    int64_t outputs;  // rows of the weight
    int64_t form, is_bf16;
};

constexpr int64_t kElementsPerPiece = 8192;
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

template <class Kind, class T>
void blocks(const EmbeddingArgs& args, int64_t id, T* out) {
    constexpr int64_t kUnit = Kind::kBlocks * kBlock;
    const uint8_t* unit = static_cast<const uint8_t*>(args.values) + id * packed_bytes<Kind>(args.width / kBlock);
    for (int64_t i = 0; i < args.width; i += kUnit, unit += Kind::kBytes) {
        float values[kUnit];
        Kind::dequantize(unit, values);
        for (int64_t j = 0; j < kUnit; j += kLanes) store_f32(out + i + j, load<f32x16>(values + j));
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
    }
    with_kind(args.form - kGguf, [&]<class Kind>(Kind) { blocks<Kind>(args, id, out); });
}

void run(const EmbeddingArgs& args, int64_t piece, char*) {
    const Range rows = share(args.rows, 1, piece, pieces(args));
    for (int64_t row = rows.first; row < rows.last; ++row)
        args.is_bf16 ? one_row<bf16>(args, row) : one_row<float>(args, row);
}

}  // namespace

TRIPTYCH_KERNEL(embedding, EmbeddingArgs, pieces, run)
