// What all kinds of GGUF block have in common.
//
// A block of 32 weights stands for scale · (u - zero) [+ minimum] with unsigned bytes u, one of activations for scale · q
// with signed bytes q. Their product is scale · scale · (Σ u·q - zero · Σ q) [+ minimum · scale · Σ q]: one integer dot
// product, which begins with -zero · Σ q, and for a minimum one more multiplication.
//
// A Kind says how blocks are packed and multiplied:
//
//   kBlocks, kBytes     blocks that are packed together, and their bytes: the unit of the file
//   kGroup              blocks that are multiplied at a time
//   kMinimum, kZero     whether a block has a minimum; the zero of its bytes
//   kScales             scales of a block: one, or one for each half
//   Weights, weights    a group read from the file
//   Row, put            a group of activations, and how a block of them comes in
//   add_product         adds a group's product to sixteen sums
//   unpack, headers     the bytes u of a group, in their order; scales and minima of a unit
//   dequantize          the numbers of a unit

#pragma once

#include "simd.h"

constexpr int64_t kBlock = 32;
constexpr int64_t kWords = kBlock / 4;  // of four activations

typedef uint64_t u64x4 __attribute__((vector_size(32)));
typedef uint64_t u64x8 __attribute__((vector_size(64)));

// Packed size of so many blocks of a row.
template <class Kind>
constexpr int64_t packed_bytes(int64_t blocks) {
    return blocks / Kind::kBlocks * Kind::kBytes;
}

TRIPTYCH_INLINE float half_at(const uint8_t* p) { return half_to_float(load<f16>(p)); }
