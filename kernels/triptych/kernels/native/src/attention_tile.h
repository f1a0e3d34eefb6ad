// One tile of attention: some query rows take up to kTile tokens into their results, with a softmax that is corrected
// as larger scores turn up.

#pragma once

#include "attention_products.h"

struct Scoring {
    float scale;    // of a score in the exponent of Arithmetic<T>::power, after the cap if there is one
    float softcap;  // 0: none
    float inner;    // scale / softcap, of the argument of tanh
};

template <int R>
void cap(float* scores, int64_t count, const Scoring& scoring) {
    for (int r = 0; r < R; ++r)
        for (int64_t c = 0; c < count; ++c) {
            float* place = scores + r * kTile + c * kLanes;
            store(place, tanh(load<f32x16>(place) * scoring.inner) * scoring.softcap);
        }
}

template <class T, int R>
void hide(const Rows<T>& rows, const Columns<T>& columns, int64_t count, float* scores) {
    constexpr i32x16 lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (int r = 0; r < R; ++r) {
        const i32x16 from = splat(static_cast<int32_t>(rows.from[r] - columns.first));
        const i32x16 to = splat(static_cast<int32_t>(rows.to[r] - columns.first));
        for (int64_t c = 0; c < count; ++c) {
            float* place = scores + r * kTile + c * kLanes;
            const i32x16 token = lanes + static_cast<int32_t>(c * kLanes);
            store(place, (token >= from) & (token < to) ? load<f32x16>(place) : splat(-INFINITY));
        }
    }
}

// Scores become probabilities, not yet divided by their total; `faded` gets what earlier sums are multiplied by.
// A score of NaN may or may not be `most`, but its own power is NaN, and so are the total and the row from then on.
template <class T, int R>
TRIPTYCH_INLINE void soften(
    const Rows<T>& rows, int64_t count, const float* scores, T* probabilities, float scale, float (&faded)[R]
) {
    for (int r = 0; r < R; ++r) {
        const float* row = scores + r * kTile;
        f32x16 top = splat(rows.most[r]);
        for (int64_t c = 0; c < count; ++c) top = max(top, load<f32x16>(row + c * kLanes));
        const float most = largest(top);
        const f32x16 shift = splat(-most * scale);
        f32x16 total{};
        for (int64_t c = 0; c < count; ++c) {
            const f32x16 power = Arithmetic<T>::power(fma(load<f32x16>(row + c * kLanes), splat(scale), shift));
            store_f32(probabilities + r * kTile + c * kLanes, power);
            total += power;
        }
        faded[r] = Arithmetic<T>::power(splat((rows.most[r] - most) * scale))[0];
        rows.totals[r] = rows.totals[r] * faded[r] + total;
        rows.most[r] = most;
    }
}

// Takes a tile's tokens into the result of R rows.
template <class T, int R>
void attend_tile(const Rows<T>& rows, const Columns<T>& columns, const Scoring& scoring, char* scratch) {
    float* scores = reinterpret_cast<float*>(scratch);                // [R, kTile]
    T* probabilities = reinterpret_cast<T*>(scores + kRows * kTile);  // [R, kTile]
    // Rows rise with their tokens. What lies where there is no token is no number: no value is read, a key is hidden.
    const int64_t tokens = (rows.to[R - 1] < columns.stop ? rows.to[R - 1] : columns.stop) - columns.first;
    if (tokens <= 0 || rows.from[0] >= columns.stop) return;
    const int64_t count = (tokens + kLanes - 1) / kLanes;
    int64_t column = 0;
    for (; column + kColumns <= count; column += kColumns) score<T, R, kColumns>(rows, columns, column, scores);
    if constexpr (kColumns > 2)
        for (; column + 2 <= count; column += 2) score<T, R, 2>(rows, columns, column, scores);
    for (; column < count; ++column) score<T, R, 1>(rows, columns, column, scores);
    if (scoring.softcap != 0) cap<R>(scores, count, scoring);
    if (rows.from[R - 1] > columns.first || rows.to[0] < columns.first + count * kLanes)
        hide<T, R>(rows, columns, count, scores);
    float faded[R];
    soften<T, R>(rows, count, scores, probabilities, scoring.scale, faded);
    int64_t dim = 0;
    for (; dim + kColumns * kLanes <= columns.head_dim; dim += kColumns * kLanes)
        add_values<T, R, kColumns>(rows, columns, tokens, probabilities, faded, dim);
    if constexpr (kColumns > 2)
        for (; dim + 2 * kLanes <= columns.head_dim; dim += 2 * kLanes)
            add_values<T, R, 2>(rows, columns, tokens, probabilities, faded, dim);
    for (; dim < columns.head_dim; dim += kLanes)
        add_values<T, R, 1>(rows, columns, tokens, probabilities, faded, dim);
}
