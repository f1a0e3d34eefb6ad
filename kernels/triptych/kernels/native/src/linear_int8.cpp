// Projections by int8 weights packed [outputs / 16][inputs / 4][16][4], with a scale for every output.
//
// A row of x becomes unsigned bytes: x ≈ scale · (u - zero), which spans from its least to its largest number, 0 always
// among them. So the product is scale · scale · (Σ u·w - zero · Σ w), and Σ w comes with the weight.
//
// Few rows are bound by reading the weights: the sixteen outputs are the lanes. Of many, sixteen rows are the lanes.

#include "products.h"
#include "transpose.h"

namespace {

constexpr int64_t kWordInputs = 4;
constexpr int kVectors = kChunkRows / kLanes;

#if defined(__AVX512F__)
constexpr int kDotRows = 8, kDotSums = 8, kTileOutputs = 8;  // that registers hold
#else
constexpr int kDotRows = 1, kDotSums = 1, kTileOutputs = 1;
#endif

struct QuantiseArgs {
    const void* x;  // [rows, inputs]
    char* out;
    int64_t rows, inputs, is_bf16;
};

int64_t words_of(int64_t inputs) { return (inputs + kWordInputs - 1) / kWordInputs; }
int64_t vectors_of(int64_t rows) { return (rows + kLanes - 1) / kLanes; }

struct Range8 {
    float scale;
    int32_t zero;
};

// One of few rows, followed by its bytes.
struct alignas(64) Row {
    Range8 range;

    static int64_t bytes(int64_t inputs) { return 64 + (inputs + 63) / 64 * 64; }
    const uint8_t* values() const { return reinterpret_cast<const uint8_t*>(this + 1); }
};

// Up to 48 of many rows as lanes, followed by [word][vector][lane][4].
template <int Vectors>
struct Panel {
    f32x16 scales[Vectors];
    i32x16 zeros[Vectors];

    const u8x64 (*words() const)[Vectors] { return reinterpret_cast<const u8x64(*)[Vectors]>(this + 1); }
};

int64_t panel_bytes(int64_t inputs) { return sizeof(Panel<1>) + words_of(inputs) * 64; }  // of a vector

template <class T>
f32x16 load_some(const T* p, int64_t count) {
    if (count >= kLanes) return load_f32(p);
    T values[kLanes] = {};
    if (count > 0) std::memcpy(values, p, count * sizeof(T));
    return load_f32(values);
}

// A number that is not finite makes the scale NaN, and so every product with the row.
template <class T>
Range8 range_of(const T* x, int64_t inputs, float& inverse) {
    f32x16 high{}, low{};
    i32x16 bits{};
    for (int64_t i = 0; i < inputs; i += kLanes) {
        const f32x16 values = load_some(x + i, inputs - i);
        high = max(values, high);
        low = min(values, low);
        const i32x16 size = (i32x16)values & 0x7fffffff;
        bits = size > bits ? size : bits;
    }
    inverse = 0;
    if (largest(bits) >= 0x7f800000) return {NAN, 0};
    const float least = -largest(-low), scale = largest(high) / 255.0f - least / 255.0f;
    inverse = std::fmin(1.0f / scale, 3.4e38f);
    return {scale, static_cast<int32_t>(clamp(std::lrint(-least * inverse), 0, 255))};
}

// 64 numbers from `first` on, zeros beyond the inputs.
template <class T>
void quantise(const T* x, int64_t first, int64_t inputs, Range8 range, float inverse, uint8_t* out) {
    for (int64_t i = first; i < first + 64; i += kLanes, out += kLanes) {
        const f32x16 values = load_some(x + i, inputs - i);
        const i32x16 shifted = (inverse > 0 ? round_to_int(values * inverse) : i32x16{}) + range.zero;
        const i32x16 floored = shifted > 0 ? shifted : i32x16{};
        store(out, __builtin_convertvector(floored < 255 ? floored : splat(255), u8x16));
    }
}

template <class T>
void quantise_row(const QuantiseArgs& args, int64_t row) {
    const T* x = static_cast<const T*>(args.x) + row * args.inputs;
    char* out = args.out + row * Row::bytes(args.inputs);
    float inverse;
    const Range8 range = range_of(x, args.inputs, inverse);
    std::memcpy(out, &range, sizeof(range));
    for (int64_t i = 0; i < args.inputs; i += 64)
        quantise(x, i, args.inputs, range, inverse, reinterpret_cast<uint8_t*>(out) + 64 + i);
}

// Sixteen rows of a panel; beyond the last row it is repeated.
template <class T>
void quantise_vector(const QuantiseArgs& args, int64_t piece) {
    const int64_t first = piece * kLanes, chunk = first / kChunkRows * kChunkRows, vector = (first - chunk) / kLanes;
    const int64_t vectors = vectors_of(std::min(kChunkRows, args.rows - chunk));
    char* panel = args.out + chunk / kLanes * panel_bytes(args.inputs);
    const T* rows[kLanes];
    Range8 ranges[kLanes];
    float inverses[kLanes];
    f32x16 scales{};
    i32x16 zeros{};
    for (int64_t lane = 0; lane < kLanes; ++lane) {
        rows[lane] = static_cast<const T*>(args.x) + std::min(first + lane, args.rows - 1) * args.inputs;
        ranges[lane] = range_of(rows[lane], args.inputs, inverses[lane]);
        scales[lane] = ranges[lane].scale;
        zeros[lane] = ranges[lane].zero;
    }
    store(panel + vector * 64, scales);
    store(panel + (vectors + vector) * 64, zeros);
    panel += 2 * vectors * 64;
    for (int64_t i = 0; i < args.inputs; i += 64) {
        alignas(64) uint8_t values[kLanes][64];
        u32x16 words[16];
        for (int64_t lane = 0; lane < kLanes; ++lane) {
            quantise(rows[lane], i, args.inputs, ranges[lane], inverses[lane], values[lane]);
            words[lane] = load<u32x16>(values[lane]);
        }
        transpose(words);
        const int64_t word = i / kWordInputs, count = std::min(kLanes, words_of(args.inputs) - word);
        for (int64_t w = 0; w < count; ++w) store(panel + ((word + w) * vectors + vector) * 64, words[w]);
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
    i32x16 sums;

    TRIPTYCH_INLINE f32x16 finish(i32x16 dots, Range8 range) const {
        return to_float(dots - sums * range.zero) * (scales * range.scale);
    }
};

// Words of the inputs are dealt out to `Parts` sums, whose additions so do not wait for each other.
template <int Rows>
void dot_rows(const Row* const* x, const Group& weight, int64_t words, f32x16* outputs) {
    constexpr int Parts = kDotSums / Rows < 1 ? 1 : kDotSums / Rows;
    i32x16 sums[Rows][Parts] = {};
    const auto add = [&](int64_t word, int part) __attribute__((always_inline)) {
        const int8_t* place = weight.words + word * 64;
        __builtin_prefetch(place + 2048);
        const i8x64 w = load<i8x64>(place);
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r)
            sums[r][part] = dot_u8i8(sums[r][part], (u8x64)splat_32(x[r]->values() + word * kWordInputs), w);
    };
    int64_t word = 0;
    for (; word + Parts <= words; word += Parts)
#pragma GCC unroll 8
        for (int part = 0; part < Parts; ++part) add(word + part, part);
    for (; word < words; ++word) add(word, 0);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
        for (int part = 1; part < Parts; ++part) sums[r][0] += sums[r][part];
        outputs[r] = weight.finish(sums[r][0], x[r]->range);
    }
}

template <int Most>
void dot_rows(const Row* const* x, int64_t rows, const Group& weight, int64_t words, f32x16* outputs) {
    if constexpr (Most > 1)
        if (rows < Most) return dot_rows<Most - 1>(x, rows, weight, words, outputs);
    dot_rows<Most>(x, weight, words, outputs);
}

template <int Vectors>
void panel_group(const char* x, const Group& weight, int64_t words, f32x16* outputs) {
    const auto* panel = reinterpret_cast<const Panel<Vectors>*>(x);
    i32x16 columns[kGroup][Vectors];
    for (int first = 0; first < kGroup; first += kTileOutputs) {
        i32x16 sums[kTileOutputs][Vectors] = {};
        for (int64_t word = 0; word < words; ++word) {
            const u8x64* rows = panel->words()[word];
#pragma GCC unroll 8
            for (int c = 0; c < kTileOutputs; ++c) {
                const i8x64 w = (i8x64)splat_32(weight.words + word * 64 + (first + c) * kWordInputs);
#pragma GCC unroll 8
                for (int v = 0; v < Vectors; ++v) sums[c][v] = dot_u8i8(sums[c][v], rows[v], w);
            }
        }
#pragma GCC unroll 8
        for (int c = 0; c < kTileOutputs; ++c)
#pragma GCC unroll 8
            for (int v = 0; v < Vectors; ++v) columns[first + c][v] = sums[c][v];
    }
    for (int v = 0; v < Vectors; ++v) {
        u32x16 square[16];
        for (int c = 0; c < kGroup; ++c) square[c] = (u32x16)columns[c][v];
        transpose(square);
        for (int lane = 0; lane < kLanes; ++lane)
            outputs[v * kLanes + lane] = weight.finish((i32x16)square[lane], {panel->scales[v][lane], panel->zeros[v][lane]});
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
                load_first<f32x16>(part.scales + output, bytes), load_first<i32x16>(part.sums + output, bytes)};
    }

    void multiply(Range chunk, const Group& weight, f32x16* outputs) const {
        if (rows_ <= Cut::kFew) return few(weight, outputs);
        const char* panel = x_ + chunk.first / kLanes * panel_bytes(inputs_);
        switch (vectors_of(chunk.last - chunk.first)) {
            case 1: return panel_group<1>(panel, weight, words_, outputs);
            case 2: return panel_group<2>(panel, weight, words_, outputs);
            case 3: return panel_group<3>(panel, weight, words_, outputs);
        }
    }

  private:
    void few(const Group& weight, f32x16* outputs) const {
        const Row* rows[Cut::kFew];
        for (int64_t r = 0; r < rows_; ++r) rows[r] = reinterpret_cast<const Row*>(x_ + r * Row::bytes(inputs_));
        for (int64_t r = 0; r < rows_; r += kDotRows)
            dot_rows<kDotRows>(rows + r, std::min<int64_t>(kDotRows, rows_ - r), weight, words_, outputs + r);
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
