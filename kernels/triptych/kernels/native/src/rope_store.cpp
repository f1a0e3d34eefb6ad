// Rotates queries and keys by their positions, and writes keys and values into their pages.

#include "kernel.h"
#include "pages.h"
#include "rotary.h"

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
