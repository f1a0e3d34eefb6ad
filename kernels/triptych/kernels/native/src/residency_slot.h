// A slot of memory that one expert may be in, and who hears of it.

#pragma once

#include <cstdint>
#include <vector>

enum class Cause : int32_t { Demand, Prefetch, Warm };
enum class State : int32_t { Empty, Loading, Ready };

struct Slot {
    State state = State::Empty;
    int32_t layer = -1, expert = -1;
    Cause cause = Cause::Demand;
    bool pinned = false;      // of what the step computes with
    bool asked = false;       // since it was read
    int32_t awaited_by = -1;  // the layer that it was read for in advance, until the step is there
};

struct Load {
    int32_t slot, layer, expert;
    Cause cause;
};

// Hears of experts that get a slot or lose it.
class Places {
  public:
    virtual ~Places() = default;
    virtual void placed(int32_t layer, int32_t expert, int32_t slot) = 0;
    virtual void gone(const Slot& at, int32_t slot) = 0;
    // No slot can be had: makes one free, or lets one become so.
    virtual void make_room() = 0;
};
