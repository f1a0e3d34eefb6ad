// What layers have asked for: how often each expert, and, while it is traced, by which rows.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

class Asked {
  public:
    void add_layer(int64_t experts) { uses_.emplace_back(experts); }

    void note(int32_t layer, const int32_t* ids, int64_t tokens, int64_t top_k) {
        if (!tracing_) return;
        trace_.insert(trace_.end(), {layer, static_cast<int32_t>(tokens), static_cast<int32_t>(top_k)});
        trace_.insert(trace_.end(), ids, ids + tokens * top_k);
    }

    void count(int32_t layer, const std::vector<int32_t>& experts) {
        for (const int32_t expert : experts) ++uses_[layer][expert];
    }

    // The layer's experts are others now.
    void forget(int32_t layer) { std::fill(uses_[layer].begin(), uses_[layer].end(), 0); }

    // By how many steps each expert was asked for, since the layer was bound.
    const std::vector<int64_t>& uses(int64_t layer) const { return uses_[layer]; }

    void trace(bool on) {
        tracing_ = on;
        trace_.clear();
    }

    // Layer, tokens, top_k and the ids, one after the other.
    std::vector<int32_t>& traced() { return trace_; }

  private:
    std::vector<std::vector<int64_t>> uses_;
    bool tracing_ = false;
    std::vector<int32_t> trace_;
};
