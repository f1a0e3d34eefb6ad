// Projections by int8 weights (int8_rows.h). Few rows are bound by reading the weights: the sixteen outputs are the lanes.
// Of many, sixteen rows are the lanes.

#include "int8_rows.h"
#include "products.h"
#include "transpose.h"

namespace {

#if defined(__AVX512F__)
constexpr int kTileOutputs = 8;  // that registers hold
#else
constexpr int kTileOutputs = 1;
#endif

struct QuantiseArgs {
    const void* x;  // [rows, inputs]
    char* out;
    int64_t rows, inputs, is_bf16;
};

int64_t vectors_of(int64_t rows) { return (rows + kLanes - 1) / kLanes; }

// A block of up to 48 of many rows as lanes, which are [chunk][block].
template <int Vectors>
struct PanelBlock {
    u8x64 values[kBlockWords][Vectors];
    f32x16 scales[Vectors];
    i32x16 zeros[Vectors];
};

constexpr int64_t kPanelBytes = sizeof(PanelBlock<1>);  // of a block and a vector

template <class T>
void quantise_row(const QuantiseArgs& args, int64_t row) {
    auto* out = reinterpret_cast<RowBlock*>(args.out) + row * blocks_of(args.inputs);
    quantise_row(static_cast<const T*>(args.x) + row * args.inputs, args.inputs, out);
}

// Sixteen rows of a panel; beyond the last row it is repeated.
template <class T>
void quantise_vector(const QuantiseArgs& args, int64_t piece) {
    const int64_t first = piece * kLanes, chunk = first / kChunkRows * kChunkRows, vector = (first - chunk) / kLanes;
    const int64_t vectors = vectors_of(std::min(kChunkRows, args.rows - chunk));
    char* block = args.out + chunk / kLanes * blocks_of(args.inputs) * kPanelBytes;
    for (int64_t i = 0; i < args.inputs; i += kBlock, block += vectors * kPanelBytes) {
        u32x16 words[kBlockWords];
        float scales[kLanes];
        int32_t zeros[kLanes];
        for (int64_t lane = 0; lane < kLanes; ++lane) {
            const T* row = static_cast<const T*>(args.x) + std::min(first + lane, args.rows - 1) * args.inputs;
            RowBlock quantised;
            quantise(row + i, args.inputs - i, quantised);
            words[lane] = load<u32x16>(quantised.values);
            scales[lane] = quantised.scale;
            zeros[lane] = quantised.zero;
        }
        transpose(words);
        for (int64_t w = 0; w < kBlockWords; ++w) store(block + (w * vectors + vector) * 64, words[w]);
        store(block + (kBlockWords * vectors + vector) * 64, load<f32x16>(scales));
        store(block + ((kBlockWords + 1) * vectors + vector) * 64, load<i32x16>(zeros));
    }
}

int64_t quantise_pieces(const QuantiseArgs& args) {
    return args.rows <= Cut::kFew ? args.rows : vectors_of(args.rows);
}

void quantise_piece(const QuantiseArgs& args, int64_t piece, char*) {
    if (args.rows <= Cut::kFew)
        return args.is_bf16 ? quantise_row<bf16>(args, piece) : quantise_row<float>(args, piece);
    args.is_bf16 ? quantise_vector<bf16>(args, piece) : quantise_vector<float>(args, piece);
}

// Adds the products of a block with kTileOutputs outputs, of which `place` has the first word; sums are their Σ w.
template <int Vectors>
TRIPTYCH_INLINE void add_tile(const PanelBlock<Vectors>& x, const int8_t* place, int64_t count, const int32_t* sums,
                              f32x16 (*products)[Vectors]) {
    i32x16 dots[kTileOutputs][Vectors] = {};
    for (int64_t word = 0; word < count; ++word) {
#pragma GCC unroll 8
        for (int c = 0; c < kTileOutputs; ++c) {
            const i8x64 w = (i8x64)splat_32(place + word * 64 + c * kWordInputs);
#pragma GCC unroll 8
            for (int v = 0; v < Vectors; ++v) dots[c][v] = dot_u8i8(dots[c][v], x.values[word][v], w);
        }
    }
#pragma GCC unroll 8
    for (int c = 0; c < kTileOutputs; ++c)
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v)
            products[c][v] = fma(to_float(dots[c][v] - x.zeros[v] * sums[c]), x.scales[v], products[c][v]);
}

template <int Vectors>
void panel_group(const char* x, const Group& weight, int64_t words, f32x16* outputs) {
    f32x16 products[kGroup][Vectors] = {};
    each_block(weight, words, [&](int64_t block, const int8_t* place, int64_t count) __attribute__((always_inline)) {
        i32x16 vector{};
        for (int64_t word = 0; word < count; ++word) vector = dot_u8i8(vector, ones(), load<i8x64>(place + word * 64));
        int32_t sums[kGroup];
        store(sums, vector);
        const auto& rows = reinterpret_cast<const PanelBlock<Vectors>*>(x)[block];
        for (int c = 0; c < kGroup; c += kTileOutputs)
            add_tile<Vectors>(rows, place + c * kWordInputs, count, sums + c, products + c);
    });
    for (int v = 0; v < Vectors; ++v) {
        u32x16 square[16];
        for (int c = 0; c < kGroup; ++c) square[c] = (u32x16)products[c][v];
        transpose(square);
        for (int lane = 0; lane < kLanes; ++lane) outputs[v * kLanes + lane] = (f32x16)square[lane] * weight.scales;
    }
}

// The Form of products.h.
class Int8Form {
  public:
    Int8Form(const ProductArgs& args, Range, char*)
        : x_(static_cast<const char*>(args.x)), rows_(args.rows), inputs_(args.inputs), words_(words_of(args.inputs)) {}

    Group group(const ProductPart& part, int64_t output, int64_t) const {
        const int64_t bytes = std::min(kGroup, part.outputs - output) * 4;
        return {static_cast<const int8_t*>(part.weight) + output * words_ * kWordInputs,
                load_first<f32x16>(part.scales + output, bytes)};
    }

    void multiply(Range chunk, const Group& weight, f32x16* outputs) const {
        if (rows_ <= Cut::kFew) return few(weight, outputs);
        const char* panel = x_ + chunk.first / kLanes * blocks_of(inputs_) * kPanelBytes;
        switch (vectors_of(chunk.last - chunk.first)) {
            case 1: return panel_group<1>(panel, weight, words_, outputs);
            case 2: return panel_group<2>(panel, weight, words_, outputs);
            case 3: return panel_group<3>(panel, weight, words_, outputs);
        }
    }

  private:
    void few(const Group& weight, f32x16* outputs) const {
        const auto* x = reinterpret_cast<const RowBlock*>(x_);
        for (int64_t r = 0; r < rows_; r += kDotRows)
            dot_rows<kDotRows>(x + r * blocks_of(inputs_), std::min<int64_t>(kDotRows, rows_ - r), weight, words_,
                               outputs + r);
    }

    const char* const x_;
    const int64_t rows_, inputs_, words_;
};

void product(const ProductArgs& args, int64_t piece, char* scratch) {
    args.is_bf16 ? product_piece<Int8Form, bf16>(args, piece, scratch)
                 : product_piece<Int8Form, float>(args, piece, scratch);
}

}  // namespace

TRIPTYCH_KERNEL(int8_quantise, QuantiseArgs, quantise_pieces, quantise_piece)
TRIPTYCH_KERNEL(int8_product, ProductArgs, product_pieces, product)
