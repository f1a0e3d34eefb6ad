// Projections by int8 weights packed [outputs / 16][inputs / 4][16][4], with a scale for every output.
//
// Every 64 numbers of a row of x become unsigned bytes: x ≈ scale · (u - zero), which spans from the least to the
// largest of them, 0 always among them. So the product is the sum of scale · (Σ u·w - zero · Σ w) over these blocks,
// times the output's scale. Each Σ w is made anew, as one more dot product beside those with all the rows: reading it
// would cost few rows more. The blocks are added in their order, so that a row has the same products in any company.
//
// Few rows are bound by reading the weights: the sixteen outputs are the lanes. Of many, sixteen rows are the lanes.

#include "products.h"
#include "transpose.h"

namespace {

constexpr int64_t kWordInputs = 4;
constexpr int64_t kBlock = 64;  // inputs that share a scale and a zero point
constexpr int64_t kBlockWords = kBlock / kWordInputs;

#if defined(__AVX512F__)
constexpr int kDotRows = 8, kTileOutputs = 8;  // that registers hold
#else
constexpr int kDotRows = 1, kTileOutputs = 1;
#endif

struct QuantiseArgs {
    const void* x;  // [rows, inputs]
    char* out;
    int64_t rows, inputs, is_bf16;
};

int64_t words_of(int64_t inputs) { return (inputs + kWordInputs - 1) / kWordInputs; }
int64_t blocks_of(int64_t inputs) { return (inputs + kBlock - 1) / kBlock; }
int64_t vectors_of(int64_t rows) { return (rows + kLanes - 1) / kLanes; }

// A block of one of few rows, which are [row][block].
struct RowBlock {
    uint8_t values[kBlock];
    float scale;
    int32_t zero;
};

// A block of up to 48 of many rows as lanes, which are [chunk][block].
template <int Vectors>
struct PanelBlock {
    u8x64 values[kBlockWords][Vectors];
    f32x16 scales[Vectors];
    i32x16 zeros[Vectors];
};

constexpr int64_t kPanelBytes = sizeof(PanelBlock<1>);  // of a block and a vector

template <class T>
f32x16 load_some(const T* p, int64_t count) {
    if (count >= kLanes) return load_f32(p);
    T values[kLanes] = {};
    if (count > 0) std::memcpy(values, p, count * sizeof(T));
    return load_f32(values);
}

// `count` numbers, and zeros beyond them. One that is not finite makes the scale NaN, and so every product with the row.
template <class T>
void quantise(const T* x, int64_t count, RowBlock& out) {
    constexpr int kParts = kBlock / kLanes;
    f32x16 values[kParts], high{}, low{};
    i32x16 bits{};
    for (int i = 0; i < kParts; ++i) {
        values[i] = load_some(x + i * kLanes, count - i * kLanes);
        high = max(values[i], high);
        low = min(values[i], low);
        const i32x16 size = (i32x16)values[i] & 0x7fffffff;
        bits = size > bits ? size : bits;
    }
    if (largest(bits) >= 0x7f800000) {
        out = {{}, NAN, 0};
        return;
    }
    const float least = -largest(-low);
    out.scale = largest(high) / 255.0f - least / 255.0f;
    const float inverse = out.scale > 0 ? std::fmin(1.0f / out.scale, 3.4e38f) : 0;
    out.zero = static_cast<int32_t>(clamp(std::lrint(-least * inverse), 0, 255));
    for (int i = 0; i < kParts; ++i) {
        const i32x16 shifted = round_to_int(values[i] * inverse) + out.zero;
        const i32x16 floored = shifted > 0 ? shifted : i32x16{};
        store(out.values + i * kLanes, __builtin_convertvector(floored < 255 ? floored : splat(255), u8x16));
    }
}

template <class T>
void quantise_row(const QuantiseArgs& args, int64_t row) {
    const T* x = static_cast<const T*>(args.x) + row * args.inputs;
    auto* out = reinterpret_cast<RowBlock*>(args.out) + row * blocks_of(args.inputs);
    for (int64_t i = 0; i < args.inputs; i += kBlock) quantise(x + i, args.inputs - i, out[i / kBlock]);
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

struct Group {
    const int8_t* words;  // [words][16][4]
    f32x16 scales;
};

u8x64 ones() { return u8x64{} + 1; }

// Calls take(block, its first word, words), of which the last block may have fewer.
template <class Take>
TRIPTYCH_INLINE void each_block(const Group& weight, int64_t words, Take&& take) {
    for (int64_t first = 0; first < words; first += kBlockWords)
        take(first / kBlockWords, weight.words + first * 64, std::min(kBlockWords, words - first));
}

template <int Rows>
void dot_rows(const RowBlock* x, const Group& weight, int64_t words, f32x16* outputs) {
    const int64_t blocks = (words + kBlockWords - 1) / kBlockWords;
    f32x16 products[Rows] = {};
    each_block(weight, words, [&](int64_t block, const int8_t* place, int64_t count) __attribute__((always_inline)) {
        i32x16 dots[Rows] = {}, sums{};
#pragma GCC unroll 4
        for (int64_t word = 0; word < count; ++word) {
            __builtin_prefetch(place + word * 64 + 2048);
            const i8x64 w = load<i8x64>(place + word * 64);
            sums = dot_u8i8(sums, ones(), w);
#pragma GCC unroll 8
            for (int r = 0; r < Rows; ++r)
                dots[r] = dot_u8i8(dots[r], (u8x64)splat_32(x[r * blocks + block].values + word * kWordInputs), w);
        }
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) {
            const RowBlock& row = x[r * blocks + block];
            products[r] = fma(to_float(dots[r] - sums * row.zero), splat(row.scale), products[r]);
        }
    });
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) outputs[r] = products[r] * weight.scales;
}

template <int Most>
void dot_rows(const RowBlock* x, int64_t rows, const Group& weight, int64_t words, f32x16* outputs) {
    if constexpr (Most > 1)
        if (rows < Most) return dot_rows<Most - 1>(x, rows, weight, words, outputs);
    dot_rows<Most>(x, weight, words, outputs);
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
