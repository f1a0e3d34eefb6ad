// Rotates queries and keys by their positions, and writes keys and values into their pages.

#include "kernel.h"
#include "pages.h"
#include "simd.h"

namespace {

struct RopeStoreArgs {
    void* q;        // [rows, q_heads, dim], rotated in place
    void* k;        // [rows, kv_heads, dim], rotated in place on its way to the pages
    const void* v;  // [rows, kv_heads, dim]
    const int64_t *positions, *slots;  // [rows]
    const float *cos, *sin;            // [positions, half]: the first 2 · half dimensions are rotated
    void* kv;                          // [blocks, 2, kv_heads, block_size, dim]
    int64_t rows, q_heads, kv_heads, dim, half, block_size;
    int64_t is_bf16, interleaved;
};

constexpr int64_t kElementsPerPiece = 8192;

int64_t pieces(const RopeStoreArgs& args) {
    const int64_t elements = args.rows * (args.q_heads + 2 * args.kv_heads) * args.dim;
    return clamp(elements / kElementsPerPiece, 1, clamp(args.rows, 1, 64));
}

struct Pair {
    f32x16 first, second;
};

TRIPTYCH_INLINE Pair turn(Pair x, f32x16 cos, f32x16 sin) {
    return {x.first * cos - x.second * sin, x.second * cos + x.first * sin};
}

// Sixteen pairs of neighbours, apart.
TRIPTYCH_INLINE Pair load_pairs(const bf16* p) {
    const u32x16 both = load<u32x16>(p);
    return {(f32x16)(both << 16), (f32x16)(both & 0xffff0000u)};
}

TRIPTYCH_INLINE Pair load_pairs(const float* p) {
    const f32x16 a = load<f32x16>(p), b = load<f32x16>(p + kLanes);
    return {__builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
            __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31)};
}

TRIPTYCH_INLINE void store_pairs(bf16* p, Pair x) {
    const u32x16 low = __builtin_convertvector(narrow(x.first), u32x16);
    store(p, low | __builtin_convertvector(narrow(x.second), u32x16) << 16);
}

TRIPTYCH_INLINE void store_pairs(float* p, Pair x) {
    store(p, __builtin_shufflevector(x.first, x.second, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
    store(p + kLanes,
          __builtin_shufflevector(x.first, x.second, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31));
}

// Pair i of a head is (x[i · step], x[i · step + apart]).
template <class T>
void rotate(T* x, const float* cos, const float* sin, int64_t half, bool interleaved) {
    const int64_t whole = half / kLanes * kLanes, step = interleaved ? 2 : 1, apart = interleaved ? 1 : half;
    for (int64_t i = 0; i < whole; i += kLanes) {
        const f32x16 c = load<f32x16>(cos + i), s = load<f32x16>(sin + i);
        if (interleaved) {
            store_pairs(x + 2 * i, turn(load_pairs(x + 2 * i), c, s));
        } else {
            const Pair turned = turn({load_f32(x + i), load_f32(x + half + i)}, c, s);
            store_f32(x + i, turned.first);
            store_f32(x + half + i, turned.second);
        }
    }
    for (int64_t i = whole; i < half; ++i) {
        const float first = load_scalar(x + i * step), second = load_scalar(x + i * step + apart);
        store_scalar(x + i * step, first * cos[i] - second * sin[i]);
        store_scalar(x + i * step + apart, second * cos[i] + first * sin[i]);
    }
}

// One token's column of a slab of keys.
template <class T>
void store_keys(const Pages<T>& pages, T* slab, const T* k, int64_t offset) {
    T* to = slab + pages.key_at(offset, 0);
    for (int64_t i = 0; i < pages.head_dim; i += kPacked<T>, to += pages.block_size * kPacked<T>)
        std::memcpy(to, k + i, sizeof(T) * kPacked<T>);
}

// One token's share of a slab of values. Its neighbour in a pair may be written by another thread at this moment, so
// that nothing but the token's own elements is touched.
template <class T>
void store_values(const Pages<T>& pages, T* slab, const T* v, int64_t offset) {
    T* to = slab + pages.value_at(offset, 0);
    int64_t i = 0;
#if defined(__AVX512BW__)
    if constexpr (kPacked<T> == 2) {
        const int lane = offset & 1;
        for (; i + kLanes <= pages.head_dim; i += kLanes) {
            const u32x16 wide = __builtin_convertvector(load<u16x16>(v + i), u32x16) << 16 * lane;
            _mm512_mask_storeu_epi16(to + 2 * i - lane, 0x55555555u << lane, (__m512i)wide);
        }
    }
#endif
    for (; i < pages.head_dim; ++i) to[i * kPacked<T>] = v[i];
}

template <class T>
void one_row(const RopeStoreArgs& args, int64_t row) {
    const int64_t dim = args.dim, half = args.half;
    const float *cos = args.cos + args.positions[row] * half, *sin = args.sin + args.positions[row] * half;
    T* q = static_cast<T*>(args.q) + row * args.q_heads * dim;
    for (int64_t head = 0; head < args.q_heads; ++head) rotate(q + head * dim, cos, sin, half, args.interleaved);
    const Pages<T> pages{static_cast<T*>(args.kv), args.kv_heads, args.block_size, dim};
    const int64_t block = args.slots[row] / args.block_size, offset = args.slots[row] % args.block_size;
    T* k = static_cast<T*>(args.k) + row * args.kv_heads * dim;
    const T* v = static_cast<const T*>(args.v) + row * args.kv_heads * dim;
    for (int64_t head = 0; head < args.kv_heads; ++head, k += dim, v += dim) {
        rotate(k, cos, sin, half, args.interleaved);
        store_keys(pages, pages.keys(block, head), k, offset);
        store_values(pages, pages.values(block, head), v, offset);
    }
}

void run(const RopeStoreArgs& args, int64_t piece, char*) {
    // Tokens of one block lie in the same cache lines: two threads should not write to them in turn.
    const int64_t unit = args.rows < 8 * args.block_size ? 1 : args.block_size;
    const Range rows = share(args.rows, unit, piece, pieces(args));
    for (int64_t row = rows.first; row < rows.last; ++row)
        args.is_bf16 ? one_row<bf16>(args, row) : one_row<float>(args, row);
}

}  // namespace

TRIPTYCH_KERNEL(rope_store, RopeStoreArgs, pieces, run)
