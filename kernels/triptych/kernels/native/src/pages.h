// Where the elements of the KV pool lie; kernels/pages.py describes the order, and its `packing` must be kPacked here.

#pragma once

#include <cstdint>

template <class T>
constexpr int64_t kPacked = 4 / sizeof(T);  // elements to 32 bits: 2 of bfloat16, 1 of float

// One layer of the pool, [block, 2 (k|v), kv_heads, block_size, head_dim]; block_size and head_dim multiples of kPacked.
template <class T>
struct Pages {
    T* data;
    int64_t kv_heads, block_size, head_dim;

    int64_t slab() const { return block_size * head_dim; }

    // The slabs of one block and head: keys [head_dim/p][block_size][p], values [block_size/p][head_dim][p].
    T* keys(int64_t block, int64_t head) const { return data + (block * 2 * kv_heads + head) * slab(); }
    T* values(int64_t block, int64_t head) const { return keys(block, kv_heads + head); }

    // Offsets in a slab: element `dim` of the token at `offset` in its block.
    int64_t key_at(int64_t offset, int64_t dim) const {
        return (dim / kPacked<T> * block_size + offset) * kPacked<T> + dim % kPacked<T>;
    }
    int64_t value_at(int64_t offset, int64_t dim) const {
        return (offset / kPacked<T> * head_dim + dim) * kPacked<T> + offset % kPacked<T>;
    }
};
