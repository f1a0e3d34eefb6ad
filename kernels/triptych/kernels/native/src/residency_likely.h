// Which experts of a layer to come are likely, by the scores that its rows will choose them by.

#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernel.h"

// Numbers of all experts that are among the `top` best of a row, those first that all rows together prefer: by the sum
// of their softmax, of two the lower number. Nobody, if a score is not a number: the step will have to run again.
inline std::vector<int32_t> likely(const float* scores, int64_t stride, int64_t rows, int64_t experts, int64_t top) {
    std::vector<double> worth(experts), terms(experts);
    std::vector<bool> among(experts);
    std::vector<int32_t> order(experts);
    top = std::min(top, experts);
    for (int64_t r = 0; r < rows; ++r) {
        const float* row = scores + r * stride;
        if (!std::all_of(row, row + experts, [](float score) { return std::isfinite(score); })) return {};
        std::iota(order.begin(), order.end(), 0);
        std::partial_sort(order.begin(), order.begin() + top, order.end(),
                          [&](int32_t a, int32_t b) { return row[a] != row[b] ? row[a] > row[b] : a < b; });
        for (int64_t i = 0; i < top; ++i) among[order[i]] = true;
        double sum = 0;
        for (int64_t e = 0; e < experts; ++e) sum += terms[e] = std::exp(static_cast<double>(row[e]) - row[order[0]]);
        for (int64_t e = 0; e < experts; ++e) worth[e] += terms[e] / sum;
    }
    std::vector<int32_t> found;
    for (int32_t e = 0; e < experts; ++e)
        if (among[e]) found.push_back(e);
    std::stable_sort(found.begin(), found.end(), [&](int32_t a, int32_t b) { return worth[a] > worth[b]; });
    return found;
}
