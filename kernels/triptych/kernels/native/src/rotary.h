// Rotation of pairs of dimensions by an angle each.

#pragma once

#include "simd.h"

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
