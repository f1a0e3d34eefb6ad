// What latent attention does to each token before and after it attends: see kernels/latent.py.

#include "dot.h"
#include "kernel.h"
#include "rotary.h"

namespace {

struct StoreArgs {
    const void* x;       // [rows, latent + 2 · half]
    const void* weight;  // [latent], of the type of the rows or float32
    const int64_t *positions, *slots;
    const float *cos, *sin;  // [positions, half]
    void* pages;             // [slots, latent + 2 · half]
    int64_t rows, latent, half;
    int64_t is_bf16, wide_weight, interleaved;
    double eps;
};

constexpr int64_t kElementsPerPiece = 8192;

int64_t store_pieces(const StoreArgs& args) {
    const int64_t width = args.latent + 2 * args.half;
    return args.rows ? clamp(args.rows * width / kElementsPerPiece, 1, std::min<int64_t>(args.rows, 64)) : 0;
}

template <class T, class W>
void normalise(const T* x, const W* weight, float eps, T* out, int64_t width) {
    f32x16 squares{};
    float rest = 0;
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) squares = fma(load_f32(x + i), load_f32(x + i), squares);
    for (; i < width; ++i) rest += load_scalar(x + i) * load_scalar(x + i);
    const float scale = 1.0f / std::sqrt((sum(squares) + rest) / width + eps);
    for (i = 0; i + kLanes <= width; i += kLanes) store_f32(out + i, load_f32(x + i) * scale * load_f32(weight + i));
    for (; i < width; ++i) store_scalar(out + i, load_scalar(x + i) * scale * load_scalar(weight + i));
}

template <class T>
void store_row(const StoreArgs& args, int64_t row) {
    const int64_t latent = args.latent, half = args.half, width = latent + 2 * half;
    const T* x = static_cast<const T*>(args.x) + row * width;
    T* to = static_cast<T*>(args.pages) + args.slots[row] * width;
    const float eps = static_cast<float>(args.eps);
    args.wide_weight ? normalise(x, static_cast<const float*>(args.weight), eps, to, latent)
                     : normalise(x, static_cast<const T*>(args.weight), eps, to, latent);
    std::memcpy(to + latent, x + latent, 2 * half * sizeof(T));
    const int64_t angle = args.positions[row] * half;
    rotate(to + latent, args.cos + angle, args.sin + angle, half, args.interleaved);
}

void store_run(const StoreArgs& args, int64_t piece, char*) {
    const Range rows = share(args.rows, 1, piece, store_pieces(args));
    for (int64_t row = rows.first; row < rows.last; ++row)
        args.is_bf16 ? store_row<bf16>(args, row) : store_row<float>(args, row);
}

// ---- queries ----

struct AbsorbArgs {
    const void* q;       // [rows, heads, plain + 2 · half]
    const void* key_up;  // [heads, plain, latent]
    const int64_t* positions;
    const float *cos, *sin;  // [positions, half]
    void* out;               // [rows, heads, latent + 2 · half]
    int64_t rows, heads, plain, latent, half;
    int64_t is_bf16, interleaved;
};

constexpr int kRowsAtOnce = 4, kVectors = 4;

// out[r] = Σ over p of x[r][p] · weight[p], for `Rows` rows and sixteen columns times `Vectors`.
template <class T, int Rows, int Vectors>
TRIPTYCH_INLINE void add_rows(const T* x, int64_t x_stride, const T* weight, int64_t plain, int64_t latent, T* out,
                              int64_t out_stride) {
    f32x16 sums[Rows][Vectors] = {};
    for (int64_t p = 0; p < plain; ++p) {
        f32x16 w[Vectors];
        for (int v = 0; v < Vectors; ++v) w[v] = load_f32(weight + p * latent + v * kLanes);
        for (int r = 0; r < Rows; ++r) {
            const f32x16 factor = splat(load_scalar(x + r * x_stride + p));
            for (int v = 0; v < Vectors; ++v) sums[r][v] = fma(factor, w[v], sums[r][v]);
        }
    }
    for (int r = 0; r < Rows; ++r)
        for (int v = 0; v < Vectors; ++v) store_f32(out + r * out_stride + v * kLanes, sums[r][v]);
}

template <class T, int Rows>
void absorb_rows(const AbsorbArgs& args, int64_t row, int64_t head) {
    const int64_t q_width = args.plain + 2 * args.half, width = args.latent + 2 * args.half;
    const T* q = static_cast<const T*>(args.q) + (row * args.heads + head) * q_width;
    const T* weight = static_cast<const T*>(args.key_up) + head * args.plain * args.latent;
    T* out = static_cast<T*>(args.out) + (row * args.heads + head) * width;
    const int64_t q_stride = args.heads * q_width, stride = args.heads * width;
    int64_t c = 0;
    for (; c + kVectors * kLanes <= args.latent; c += kVectors * kLanes)
        add_rows<T, Rows, kVectors>(q, q_stride, weight + c, args.plain, args.latent, out + c, stride);
    for (; c < args.latent; c += kLanes)
        add_rows<T, Rows, 1>(q, q_stride, weight + c, args.plain, args.latent, out + c, stride);
    for (int r = 0; r < Rows; ++r) {
        T* turned = out + r * stride + args.latent;
        std::memcpy(turned, q + r * q_stride + args.plain, 2 * args.half * sizeof(T));
        const int64_t angle = args.positions[row + r] * args.half;
        rotate(turned, args.cos + angle, args.sin + angle, args.half, args.interleaved);
    }
}

int64_t absorb_pieces(const AbsorbArgs& args) { return args.rows ? args.heads : 0; }

template <class T>
void absorb_head(const AbsorbArgs& args, int64_t head) {
    int64_t row = 0;
    for (; row + kRowsAtOnce <= args.rows; row += kRowsAtOnce) absorb_rows<T, kRowsAtOnce>(args, row, head);
    for (; row < args.rows; ++row) absorb_rows<T, 1>(args, row, head);
}

void absorb_run(const AbsorbArgs& args, int64_t piece, char*) {
    args.is_bf16 ? absorb_head<bf16>(args, piece) : absorb_head<float>(args, piece);
}

// ---- values ----

struct ExpandArgs {
    const void* x;         // [rows, heads, latent]
    const void* value_up;  // [heads, values, latent]
    void* out;             // [rows, heads, values]
    int64_t rows, heads, values, latent;
    int64_t is_bf16;
};

int64_t expand_pieces(const ExpandArgs& args) { return args.rows ? args.heads : 0; }

template <class T>
void expand_rows(const ExpandArgs& args, int64_t head, const T* x, Range rows) {
    const T* weight = static_cast<const T*>(args.value_up) + head * args.values * args.latent;
    f32x16 outputs[::kDotRows];
    for (int64_t v = 0; v < args.values; v += kGroup) {
        const T* group[kGroup];
        for (int64_t c = 0; c < kGroup; ++c) group[c] = weight + std::min(v + c, args.values - 1) * args.latent;
        dot_group(x, rows.last - rows.first, group, args.latent, outputs);
        for (int64_t row = rows.first; row < rows.last; ++row) {
            T* out = static_cast<T*>(args.out) + (row * args.heads + head) * args.values + v;
            store_outputs(out, outputs[row - rows.first], args.values - v);
        }
    }
}

template <class T>
void expand_head(const ExpandArgs& args, int64_t head, T* gathered) {
    for (int64_t first = 0; first < args.rows; first += ::kDotRows) {
        const Range rows{first, std::min(first + ::kDotRows, args.rows)};
        for (int64_t row = rows.first; row < rows.last; ++row)
            std::memcpy(gathered + (row - first) * args.latent,
                        static_cast<const T*>(args.x) + (row * args.heads + head) * args.latent,
                        args.latent * sizeof(T));
        expand_rows(args, head, gathered, rows);
    }
}

void expand_run(const ExpandArgs& args, int64_t piece, char* scratch) {
    args.is_bf16 ? expand_head(args, piece, reinterpret_cast<bf16*>(scratch))
                 : expand_head(args, piece, reinterpret_cast<float*>(scratch));
}

}  // namespace

TRIPTYCH_KERNEL(store_latent, StoreArgs, store_pieces, store_run)
TRIPTYCH_KERNEL(absorb_query, AbsorbArgs, absorb_pieces, absorb_run)
TRIPTYCH_KERNEL(expand_value, ExpandArgs, expand_pieces, expand_run)
