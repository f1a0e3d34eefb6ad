// Projections of bfloat16 rows, quantised as gguf_rows.h says, by weights in GGUF blocks.
//
// Few rows are bound by reading the weights: sixteen lanes are inputs of one output. Of many rows sixteen are the lanes;
// sixteen outputs' weights at a time are unpacked to bytes, four of which are broadcast to meet them.

#include "gguf_dot.h"

namespace {

struct QuantiseArgs {
    const bf16* x;  // [rows, inputs]
    void* out;
    int64_t rows, inputs, kind;
};

int64_t quantise_pieces(const QuantiseArgs& args) {
    return args.rows <= Cut::kFew ? args.rows : vectors_of(args.rows);
}

void quantise_piece(const QuantiseArgs& args, int64_t piece, char*) {
    with_kind(args.kind, [&]<class Kind>(Kind) {
        if (args.rows <= Cut::kFew) {
            auto* rows = static_cast<typename Kind::Row*>(args.out);
            return quantise_row<Kind>(args.x + piece * args.inputs, args.inputs,
                                      rows + piece * row_groups<Kind>(args.inputs));
        }
        const int64_t first = piece * kLanes, chunk = first / kChunkRows * kChunkRows;
        const int64_t vectors = vectors_of(std::min(kChunkRows, args.rows - chunk));
        char* panel = static_cast<char*>(args.out) + chunk / kLanes * (args.inputs / kBlock) * kPanelBytes;
        quantise_vector<Kind>(args.x + first * args.inputs, args.rows - first, args.inputs, panel,
                              (first - chunk) / kLanes, vectors);
    });
}

// Sixteen rows of a weight: where they are, and for many rows of x what is in them.
struct Group {
    const uint8_t* rows[kGroup];
    const uint8_t* bytes;  // [16][inputs]
    const float* scales;   // [16][blocks][scales of a block]
    const float* minima;   // [16][blocks], where there are any; else no memory of its own
};

template <class Kind>
void unpack(const uint8_t* row, int64_t blocks, uint8_t* bytes, float* scales, float* minima) {
    for (int64_t first = 0; first < blocks; first += Kind::kGroup) {
        const int64_t count = std::min<int64_t>(Kind::kGroup, blocks - first);
        Kind::unpack(Kind::weights(row + packed_bytes<Kind>(first), count), bytes + first * kBlock);
    }
    for (int64_t i = 0; i < blocks / Kind::kBlocks; ++i) {
        const int64_t block = i * Kind::kBlocks;
        Kind::headers(row + i * Kind::kBytes, scales + block * Kind::kScales, minima + block);
    }
}

// What the dot products with part `part` of a block of weights begin with.
template <class Kind>
TRIPTYCH_INLINE i32x16 starts_of(i32x16 starts, int part) {
    if (Kind::kMinimum) return i32x16{};
    if (Kind::kScales == 1) return starts;
    return (part ? starts >> 16 : starts << 16 >> 16) * -Kind::kZero;
}

// columns[c][v] = row c of the weight times the rows of vector v.
template <class Kind, int Vectors, int Columns>
TRIPTYCH_INLINE void panel_tile(const PanelBlock<Vectors>* x, const Group& weight, int64_t first, int64_t blocks,
                                f32x16 (*columns)[Vectors]) {
    constexpr int kScales = Kind::kScales, kPart = kWords / kScales;
    f32x16 sums[Columns][Vectors] = {};
    const uint8_t* bytes = weight.bytes + first * blocks * kBlock;
    const float *scales = weight.scales + first * blocks * kScales, *minima = weight.minima + first * blocks;
    for (int64_t b = 0; b < blocks; ++b, ++x) {
#pragma GCC unroll 2
        for (int part = 0; part < kScales; ++part) {
            i32x16 dots[Columns][Vectors];
#pragma GCC unroll 8
            for (int c = 0; c < Columns; ++c)
#pragma GCC unroll 8
                for (int v = 0; v < Vectors; ++v) dots[c][v] = starts_of<Kind>(x->starts[v], part);
#pragma GCC unroll 8
            for (int64_t word = part * kPart; word < part * kPart + kPart; ++word)
#pragma GCC unroll 8
                for (int c = 0; c < Columns; ++c) {
                    const u8x64 w = (u8x64)splat_32(bytes + (c * blocks + b) * kBlock + word * 4);
#pragma GCC unroll 8
                    for (int v = 0; v < Vectors; ++v) dots[c][v] = dot_u8i8(dots[c][v], w, x->values[word][v]);
                }
#pragma GCC unroll 8
            for (int c = 0; c < Columns; ++c)
#pragma GCC unroll 8
                for (int v = 0; v < Vectors; ++v) {
                    const float scale = scales[(c * blocks + b) * kScales + part];
                    sums[c][v] = fma(to_float(dots[c][v]), x->scales[v] * scale, sums[c][v]);
                    if (Kind::kMinimum) sums[c][v] = fma(splat(minima[c * blocks + b]), x->sums[v], sums[c][v]);
                }
        }
    }
#pragma GCC unroll 8
    for (int c = 0; c < Columns; ++c)
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v) columns[c][v] = sums[c][v];
}

template <class Kind, int Vectors>
void panel_group(const char* x, const Group& weight, int64_t blocks, f32x16* outputs) {
    constexpr int kColumns = kTileSums < 4 ? 1 : Vectors == 1 ? 8 : 4;
    f32x16 columns[kGroup][Vectors];
    for (int c = 0; c < kGroup; c += kColumns)
        panel_tile<Kind, Vectors, kColumns>(reinterpret_cast<const PanelBlock<Vectors>*>(x), weight, c, blocks,
                                            columns + c);
    for (int v = 0; v < Vectors; ++v) {
        u32x16 square[16];
        for (int c = 0; c < kGroup; ++c) square[c] = (u32x16)columns[c][v];
        transpose(square);
        for (int lane = 0; lane < kLanes; ++lane) outputs[v * kLanes + lane] = (f32x16)square[lane];
    }
}

// The Form of products.h.
template <class Kind>
class GgufForm {
  public:
    GgufForm(const ProductArgs& args, Range, char* scratch)
        : x_(args.x), rows_(args.rows), blocks_(args.inputs / kBlock), scratch_(scratch) {}

    Group group(const ProductPart& part, int64_t output, int64_t place) const {
        const int64_t values = kGroup * blocks_, bytes = values * kBlock + 128;  // room for a cut group
        char* own = scratch_ + place * (bytes + 2 * values * int64_t{sizeof(float)});
        auto* unpacked = reinterpret_cast<uint8_t*>(own);
        auto* scales = reinterpret_cast<float*>(own + bytes);
        Group group{{}, unpacked, scales, scales + values};
        for (int64_t c = 0; c < kGroup; ++c) {
            const int64_t row = std::min(output + c, part.outputs - 1);  // beyond the last output it is repeated
            group.rows[c] = static_cast<const uint8_t*>(part.weight) + row * packed_bytes<Kind>(blocks_);
            if (rows_ > Cut::kFew)
                unpack<Kind>(group.rows[c], blocks_, unpacked + c * blocks_ * kBlock, scales + c * blocks_ * Kind::kScales,
                             scales + values + c * blocks_);
        }
        return group;
    }

    void multiply(Range chunk, const Group& weight, f32x16* outputs) const {
        if (rows_ <= Cut::kFew) return few(weight.rows, outputs);
        const char* panel = static_cast<const char*>(x_) + chunk.first / kLanes * blocks_ * kPanelBytes;
        switch (vectors_of(chunk.last - chunk.first)) {
            case 1: return panel_group<Kind, 1>(panel, weight, blocks_, outputs);
            case 2: return panel_group<Kind, 2>(panel, weight, blocks_, outputs);
            case 3: return panel_group<Kind, 3>(panel, weight, blocks_, outputs);
        }
    }

  private:
    void few(const uint8_t* const* weight, f32x16* outputs) const {
        const auto* x = static_cast<const typename Kind::Row*>(x_);
        const int64_t groups = row_groups<Kind>(blocks_ * kBlock);
        for (int64_t row = 0; row < rows_; row += kDotRows)
            dot_rows<Kind, kDotRows>(x + row * groups, std::min<int64_t>(kDotRows, rows_ - row), weight, blocks_,
                                     outputs + row);
    }

    const void* const x_;
    const int64_t rows_, blocks_;
    char* const scratch_;
};

void product(const ProductArgs& args, int64_t piece, char* scratch) {
    with_kind(args.kind, [&]<class Kind>(Kind) { product_piece<GgufForm<Kind>, bf16>(args, piece, scratch); });
}

}  // namespace

TRIPTYCH_KERNEL(gguf_quantise, QuantiseArgs, quantise_pieces, quantise_piece)
TRIPTYCH_KERNEL(gguf_product, ProductArgs, product_pieces, product)
