// Experts rounded to eight bits or four, as files have them (workers/triptych/experts/store/rounding.py), and what these
// stand for: the same bits as `expand` there.

#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "simd.h"
#include "wide.h"

// Of one layer, as Python gives it.
struct RoundedArgs {
    int64_t first, bytes;       // of a rounded blob's first section, and of both
    const int64_t* parts;       // [3, 3] where values, scales and bias of gate, up and down lie in it, -1 for none
    const int64_t* shapes;      // [3, 2] outputs and inputs of each
    int64_t is_bf16;            // of exact weights and biases; else float32
    int64_t bits;               // 8 or 4, that weights are rounded to
    const int64_t* offsets;     // [experts] of the blobs in the file
    const uint64_t* checksums;  // [experts, pieces] of their pieces
    int64_t piece;              // bytes of one of them
};

constexpr int64_t kOutputTile = 16, kInputTile = 4;

inline void put(float value, float* out) { *out = value; }

inline void put(float value, bf16* out) {  // of a finite number
    const auto bits = std::bit_cast<uint32_t>(value);
    *out = static_cast<bf16>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Of a row its parts of many tiles are brought together first, so that what is done to many numbers is done at once.
template <class T>
TRIPTYCH_INLINE void expand_tiles(const int8_t* values, const float* scales, int64_t outputs, int64_t inputs, T* out) {
    constexpr int64_t kMany = 64;
    const int64_t tiles = (inputs + kInputTile - 1) / kInputTile * kInputTile * kOutputTile;
    int8_t near[kMany] = {};
    T some[kMany];
    for (int64_t o = 0; o < outputs; ++o) {
        const int8_t* row = values + o / kOutputTile * tiles + o % kOutputTile * kInputTile;
        const float scale = scales[o];
        for (int64_t i = 0; i < inputs; i += kMany) {
            const int64_t count = std::min(kMany, inputs - i);
            for (int64_t k = 0; k < count; k += kInputTile) std::memcpy(near + k, row + (i + k) * kOutputTile, kInputTile);
            T* const to = count == kMany ? out : some;
            for (int64_t k = 0; k < kMany; ++k) put(near[k] * scale, to + k);
            if (to == some) std::copy_n(some, count, out);
            out += count;
        }
    }
}

TRIPTYCH_WIDE void expand_matrix(const int8_t* values, const float* scales, int64_t outputs, int64_t inputs, float* out) {
    expand_tiles(values, scales, outputs, inputs, out);
}

TRIPTYCH_WIDE void expand_matrix(const int8_t* values, const float* scales, int64_t outputs, int64_t inputs, bf16* out) {
    expand_tiles(values, scales, outputs, inputs, out);
}

// Of four bits: ggml's block_q4_0, a half and sixteen bytes whose low halves are the first weights. What is written out
// in this way the compiler makes vectors of: all of a block's numbers before any of them is rounded.
template <class T>
TRIPTYCH_INLINE void expand_blocks(const uint8_t* block, int64_t count, T* out) {
    constexpr int64_t kBlock = 32, kHalf = kBlock / 2, kBytes = sizeof(f16) + kHalf;
    T some[kBlock];
    for (; count > 0; count -= kBlock, block += kBytes, out += kBlock) {
        const float scale = half_to_float(load<f16>(block));
        uint8_t packed[kHalf];
        float wide[kBlock];
        std::memcpy(packed, block + sizeof(f16), kHalf);
        for (int64_t k = 0; k < kHalf; ++k) wide[k] = ((packed[k] & 15) - 8) * scale;
        for (int64_t k = 0; k < kHalf; ++k) wide[kHalf + k] = ((packed[k] >> 4) - 8) * scale;
        T* const to = count >= kBlock ? out : some;
        for (int64_t k = 0; k < kBlock; ++k) put(wide[k], to + k);
        if (to == some) std::copy_n(some, count, out);
    }
}

TRIPTYCH_WIDE void expand_nibbles(const uint8_t* blocks, int64_t count, float* out) { expand_blocks(blocks, count, out); }

TRIPTYCH_WIDE void expand_nibbles(const uint8_t* blocks, int64_t count, bf16* out) { expand_blocks(blocks, count, out); }

// From a rounded blob of a layer to the exact one's place.
class Expansion {
  public:
    Expansion(const RoundedArgs& rounded, const int64_t* exact)
        : is_bf16_(rounded.is_bf16), bits_(rounded.bits), from_(rounded.parts, rounded.parts + 9), to_(exact, exact + 9),
          shapes_(rounded.shapes, rounded.shapes + 6) {}

    void operator()(const char* from, char* to) const {
        for (int matrix = 0; matrix < 3; ++matrix) is_bf16_ ? expand<bf16>(matrix, from, to) : expand<float>(matrix, from, to);
    }

  private:
    template <class T>
    void expand(int matrix, const char* from, char* to) const {
        const int64_t outputs = shapes_[2 * matrix], inputs = shapes_[2 * matrix + 1];
        const int64_t *read = &from_[3 * matrix], *write = &to_[3 * matrix];
        auto* const out = reinterpret_cast<T*>(to + write[0]);
        if (bits_ == 4)
            expand_nibbles(reinterpret_cast<const uint8_t*>(from + read[0]), outputs * inputs, out);
        else
            expand_matrix(reinterpret_cast<const int8_t*>(from + read[0]), reinterpret_cast<const float*>(from + read[1]),
                          outputs, inputs, out);
        if (read[2] >= 0) std::memcpy(to + write[2], from + read[2], outputs * sizeof(T));
    }

    int64_t is_bf16_, bits_;
    std::vector<int64_t> from_, to_, shapes_;
};

// Memory of a thread that begins with a page.
class Scratch {
  public:
    char* of(int64_t bytes) {
        if (bytes > bytes_) {
            memory_.reset(static_cast<char*>(std::aligned_alloc(kPage, (bytes + kPage - 1) / kPage * kPage)));
            bytes_ = memory_ ? bytes : 0;
        }
        return memory_.get();
    }

  private:
    static constexpr int64_t kPage = 4096;
    struct Free {
        void operator()(char* memory) const { std::free(memory); }
    };
    std::unique_ptr<char, Free> memory_;
    int64_t bytes_ = 0;
};
