// Which rows go to which expert: tokens sorted by expert, in 32-bit numbers that one kernel writes and the next ones
// read.

#pragma once

#include "kernel.h"

// [0] active experts, [1] their numbers, [1 + E] where each one's entries begin and the last one's end, [2 + 2E] entries:
// token · top_k + place, of each expert in the order of the tokens, and after them the active experts in the order to
// begin with them, as places in [1]. `plan_bytes` in native/experts.py is as long.
class Plan {
  public:
    Plan(void* memory, int64_t experts) : memory_(static_cast<int32_t*>(memory)), experts_(experts) {}

    int32_t& active() { return memory_[0]; }
    int32_t* numbers() { return memory_ + 1; }
    int32_t* starts() { return memory_ + 1 + experts_; }
    int32_t* entries() { return memory_ + 2 + 2 * experts_; }
    int32_t* order() { return entries() + starts()[active()]; }

    int64_t active() const { return memory_[0]; }
    int64_t expert(int64_t i) const { return memory_[1 + i]; }
    Range rows(int64_t i) const { return {memory_[1 + experts_ + i], memory_[2 + experts_ + i]}; }
    int64_t entry(int64_t row) const { return memory_[2 + 2 * experts_ + row]; }
    const int32_t* order() const { return memory_ + 2 + 2 * experts_ + rows(active() - 1).last; }

  private:
    int32_t* memory_;
    int64_t experts_;
};
