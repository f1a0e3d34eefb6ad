// out[t][o] = sum over i of x[t][i] * weight[o][i] (+ bias[o]) for few rows t: every weight is read once.
//
// Bound by memory bandwidth, so one core is enough to saturate what a decode step gets, and no thread team has to
// be woken per layer. bfloat16 in and out, float32 in between (VDPBF16PS rounds each pair sum to nearest even).

#include <immintrin.h>

#include <cstdint>

namespace {

constexpr int64_t kLanes = 32;  // bfloat16 elements of one register

inline __m512bh load(const uint16_t* p) { return (__m512bh)_mm512_loadu_si512(p); }

inline __m512bh load_tail(const uint16_t* p, __mmask32 mask) { return (__m512bh)_mm512_maskz_loadu_epi16(mask, p); }

inline uint16_t to_bf16(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;  // NaN stays NaN
    return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float to_float(uint16_t value) {
    uint32_t bits = static_cast<uint32_t>(value) << 16;
    float result;
    __builtin_memcpy(&result, &bits, 4);
    return result;
}

// Rows x Columns sums in registers: Rows of x against Columns rows of the weight.
template <int Rows, int Columns>
void tile(const uint16_t* x, const uint16_t* weight, const uint16_t* bias, uint16_t* out, int64_t inner,
          int64_t outer) {
    __m512 sums[Rows][Columns];
    for (int r = 0; r < Rows; ++r)
        for (int c = 0; c < Columns; ++c) sums[r][c] = _mm512_setzero_ps();
    int64_t i = 0;
    for (; i + kLanes <= inner; i += kLanes) {
        __m512bh w[Columns];
        for (int c = 0; c < Columns; ++c) w[c] = load(weight + c * inner + i);
        for (int r = 0; r < Rows; ++r) {
            const __m512bh v = load(x + r * inner + i);
            for (int c = 0; c < Columns; ++c) sums[r][c] = _mm512_dpbf16_ps(sums[r][c], v, w[c]);
        }
    }
    if (i < inner) {
        const __mmask32 mask = (1u << (inner - i)) - 1;
        for (int r = 0; r < Rows; ++r)
            for (int c = 0; c < Columns; ++c)
                sums[r][c] = _mm512_dpbf16_ps(sums[r][c], load_tail(x + r * inner + i, mask),
                                              load_tail(weight + c * inner + i, mask));
    }
    for (int r = 0; r < Rows; ++r)
        for (int c = 0; c < Columns; ++c) {
            const float added = bias ? to_float(bias[c]) : 0.0f;
            out[r * outer + c] = to_bf16(_mm512_reduce_add_ps(sums[r][c]) + added);
        }
}

template <int Rows>
void rows(const uint16_t* x, const uint16_t* weight, const uint16_t* bias, uint16_t* out, int64_t inner,
          int64_t outer) {
    constexpr int kColumns = Rows <= 4 ? 4 : 2;
    int64_t o = 0;
    for (; o + kColumns <= outer; o += kColumns)
        tile<Rows, kColumns>(x, weight + o * inner, bias ? bias + o : nullptr, out + o, inner, outer);
    for (; o < outer; ++o)
        tile<Rows, 1>(x, weight + o * inner, bias ? bias + o : nullptr, out + o, inner, outer);
}

}  // namespace

// count in 1..8; x [count, inner], weight [outer, inner], bias [outer] or null, out [count, outer], all contiguous.
extern "C" void triptych_linear_bf16(const uint16_t* x, const uint16_t* weight, const uint16_t* bias, uint16_t* out,
                                     int64_t count, int64_t inner, int64_t outer) {
    switch (count) {
        case 1: return rows<1>(x, weight, bias, out, inner, outer);
        case 2: return rows<2>(x, weight, bias, out, inner, outer);
        case 3: return rows<3>(x, weight, bias, out, inner, outer);
        case 4: return rows<4>(x, weight, bias, out, inner, outer);
        case 5: return rows<5>(x, weight, bias, out, inner, outer);
        case 6: return rows<6>(x, weight, bias, out, inner, outer);
        case 7: return rows<7>(x, weight, bias, out, inner, outer);
        case 8: return rows<8>(x, weight, bias, out, inner, outer);
    }
}
