// Weights as GGUF files have them, read where they lie, and rows of activations quantised to multiply them.

#pragma once

#include "gguf_k.h"
#include "gguf_pairs.h"
#include "gguf_q4.h"

// The numbers of `KINDS` in native/gguf.py.
template <class F>
TRIPTYCH_INLINE void with_kind(int64_t kind, F&& f) {
    switch (kind) {
        case 0: return f(Q4<false>{});
        case 1: return f(Q4<true>{});
        case 2: return f(Q8{});
        case 3: return f(Q5<false>{});
        case 4: return f(Q5<true>{});
        case 5: return f(K45<false>{});
        case 6: return f(K45<true>{});
        case 7: return f(K6{});
    }
}

// The numbers of so many blocks of a row.
template <class Kind>
void dequantize_row(const uint8_t* row, int64_t blocks, float* values) {
    for (int64_t i = 0; i < blocks / Kind::kBlocks; ++i)
        Kind::dequantize(row + i * Kind::kBytes, values + i * Kind::kBlocks * kBlock);
}
