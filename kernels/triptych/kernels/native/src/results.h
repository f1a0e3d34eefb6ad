// What becomes of sixteen neighbouring outputs of one row while they are in a register.

#pragma once

#include <algorithm>

#include "kernel.h"
#include "simd.h"

constexpr int64_t kGroup = 16;  // outputs that a kernel computes side by side

inline int64_t groups_of(int64_t outputs) { return (outputs + kGroup - 1) / kGroup; }

constexpr int64_t kBeyond = 32 << 10;

// Asks memory for what lies some way behind the weight that is being read. Into the second-level cache, because the
// first would have to hold it while the rows of x pass through it; this alone doubled the rate at eight rows.
template <int64_t Bytes = kBeyond>
TRIPTYCH_INLINE void prefetch_beyond(const void* weight) {
    if constexpr (Bytes > 0) __builtin_prefetch(static_cast<const char*>(weight) + Bytes, 0, 2);
}

TRIPTYCH_INLINE f32x16 silu(f32x16 x) { return x / (exp(-x) + 1.0f); }

// Writes the first `count` of them.
template <class T>
TRIPTYCH_INLINE void store_outputs(T* out, f32x16 values, int64_t count) {
    if (count >= kGroup) return store_f32(out, values);
    for (int64_t i = 0; i < count; ++i) store_scalar(out + i, values[i]);
}

// A projection's outputs [rows, outputs], with the bias [outputs] of type T where there is one.
template <class T>
struct Projected {
    void* out;
    const T* bias;
    int64_t outputs;
    bool wide;  // out is float32, whatever T is

    TRIPTYCH_INLINE void operator()(int64_t row, int64_t output, f32x16 values) const {
        const int64_t count = std::min(kGroup, outputs - output), place = row * outputs + output;
        if (bias) {
            T added[kGroup] = {};
            std::memcpy(added, bias + output, count * sizeof(T));
            values += load_f32(added);
        }
        wide ? store_outputs(static_cast<float*>(out) + place, values, count)
             : store_outputs(static_cast<T*>(out) + place, values, count);
    }
};

// The largest output of a row so far, lane by lane; NaN is never larger.
struct Largest {
    f32x16 value = splat(-INFINITY);
    i32x16 id{};

    TRIPTYCH_INLINE void operator()(int64_t output, f32x16 values, int64_t outputs) {
        const i32x16 ids = i32x16{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} + (int32_t)output;
        const i32x16 better = (values > value) & (ids < (int32_t)outputs);
        value = better ? values : value;
        id = better ? ids : id;
    }

    // Over all lanes, the lowest id of equal values.
    void finish(float* largest, int64_t* place) const {
        int best = 0;
        for (int i = 1; i < kLanes; ++i)
            if (value[i] > value[best] || (value[i] == value[best] && id[i] < id[best])) best = i;
        *largest = value[best];
        *place = id[best];
    }
};
