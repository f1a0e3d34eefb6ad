// What gated linear units multiply by: a function of the gate's projection.

#pragma once

#include "simd.h"

// As `GATES` in native/activation.py numbers them.
enum Gate : int64_t {
    kSilu,      // gate · sigmoid(gate) · up
    kGelu,      // gate · Φ(gate) · up
    kGeluTanh,  // the same with the tanh approximation of Φ
    kClamped,   // gpt-oss: min(gate, limit) · sigmoid(alpha · min(gate, limit)) · (up within ±limit + 1)
};

TRIPTYCH_INLINE f32x16 sigmoid_times(f32x16 x, f32x16 factor) { return factor / (exp(-x) + 1.0f); }

inline f32x16 gelu(f32x16 x) {
    f32x16 result;
    for (int i = 0; i < kLanes; ++i) result[i] = 0.5f * x[i] * (1.0f + std::erf(x[i] * 0.70710678118654752f));
    return result;
}

inline f32x16 gelu_tanh(f32x16 x) {
    return x * 0.5f * (tanh(fma(x * x * x, splat(0.044715f), x) * 0.79788456080286536f) + 1.0f);
}

struct Gating {
    int64_t gate;
    float alpha, limit;  // of kClamped

    TRIPTYCH_INLINE f32x16 operator()(f32x16 x, f32x16 up) const {
        if (gate == kSilu) return sigmoid_times(x, x) * up;
        if (gate == kGelu) return gelu(x) * up;
        if (gate == kGeluTanh) return gelu_tanh(x) * up;
        const f32x16 most = splat(limit), kept = min(most, x);  // in this order NaN comes through
        return sigmoid_times(kept * alpha, kept) * (max(-most, min(most, up)) + 1.0f);
    }
};
