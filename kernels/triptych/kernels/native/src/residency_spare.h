// Slots that keep nobody, oldest first: a list that any of them leaves in the time of one.

#pragma once

#include <cstdint>
#include <vector>

class Spare {
  public:
    explicit Spare(int64_t slots) : next_(slots + 1), previous_(slots + 1), in_(slots), end_(static_cast<int32_t>(slots)) {
        next_[end_] = previous_[end_] = end_;
        for (int32_t slot = 0; slot < end_; ++slot) to_end(slot);
    }

    bool has(int32_t slot) const { return in_[slot]; }
    int64_t count() const { return count_; }
    int32_t first() const { return next_[end_]; }
    int32_t after(int32_t slot) const { return next_[slot]; }
    int32_t end() const { return end_; }

    void to_end(int32_t slot) { put(slot, end_); }
    void to_front(int32_t slot) { put(slot, next_[end_] == slot ? next_[slot] : next_[end_]); }

    void remove(int32_t slot) {
        if (!in_[slot]) return;
        next_[previous_[slot]] = next_[slot];
        previous_[next_[slot]] = previous_[slot];
        in_[slot] = false;
        --count_;
    }

  private:
    void put(int32_t slot, int32_t before) {
        remove(slot);
        next_[slot] = before;
        previous_[slot] = previous_[before];
        next_[previous_[slot]] = previous_[before] = slot;
        in_[slot] = true;
        ++count_;
    }

    std::vector<int32_t> next_, previous_;
    std::vector<bool> in_;
    int32_t end_;
    int64_t count_ = 0;
};
