// Which experts of a layer are in memory: a word for each, which readers set and kernels wait for.

#pragma once

#include <sched.h>

#include <chrono>
#include <climits>
#include <cstdint>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

constexpr int32_t kGateUpThere = 1, kDownThere = 2, kHasSlot = 4, kSomebodyWaits = 8;
constexpr int64_t kWaitedPlaces = 64;  // WAITED_PLACES in expert_slots.py
constexpr int kArrivalLooks = 8;       // between two offers of the core to readers, who need it
constexpr auto kAwake = std::chrono::milliseconds(1);  // before it parks: a core that sleeps wakes as slowly as a small expert is read

constexpr int32_t kFlags = 15;         // above them: how often the expert has been given a slot

inline int32_t flags_of(const int32_t* word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
inline int32_t placement_of(const int32_t* word) { return flags_of(word) & ~kFlags; }

inline bool replace(int32_t* word, int32_t& seen, int32_t by) {
    return __atomic_compare_exchange_n(word, &seen, by, true, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

inline void wake([[maybe_unused]] int32_t* word, [[maybe_unused]] int32_t seen) {
#if defined(__linux__)
    if (seen & kSomebodyWaits) syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
#endif
}

// An expert has a slot, into which nothing has been read yet.
inline void enter(int32_t* word) {
    int32_t seen = flags_of(word);
    while (!replace(word, seen, static_cast<int32_t>(static_cast<uint32_t>(seen & ~kFlags) + kFlags + 1) | kHasSlot)) {
    }
}

// Something of an expert is there; whoever waits for it goes on. Its slot may be another's by now, if the reader was
// held up between saying that it is done and saying it here: then this is not about the slot that the expert has now.
inline void arrive(int32_t* word, int32_t placement, int32_t what) {
    int32_t seen = flags_of(word);
    do {
        if ((seen & ~kFlags) != placement || !(seen & kHasSlot)) return;
    } while (!replace(word, seen, (seen | what) & ~kSomebodyWaits));
    wake(word, seen);
}

// An expert has no slot any more; whoever waits for it goes on.
inline void leave(int32_t* word) {
    int32_t seen = flags_of(word);
    while (!replace(word, seen, seen & ~kFlags)) {
    }
    wake(word, seen);
}

// What kernels see. Without words everything is there.
class Arrivals {
  public:
    Arrivals(int32_t* flags, int64_t* waited) : flags_(flags), waited_(waited) {}

    void wait_for(int64_t expert, int32_t what) const {
        if (flags_ && !settled(flags_of(flags_ + expert), what)) wait(flags_ + expert, what);
    }

  private:
    // What has no slot will never come: nobody has asked for it.
    static bool settled(int32_t flags, int32_t what) { return flags & what || !(flags & kHasSlot); }

    // Looks a few times.
    static bool come(const int32_t* word, int32_t what) {
        for (int i = 0; i < kArrivalLooks; ++i) {
            if (settled(flags_of(word), what)) return true;
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
        }
        return false;
    }

    __attribute__((noinline)) void wait(int32_t* word, int32_t what) const {
        const auto begin = std::chrono::steady_clock::now();
        while (!come(word, what) && std::chrono::steady_clock::now() - begin < kAwake) sched_yield();
        for (int32_t seen = flags_of(word); !settled(seen, what); seen = flags_of(word)) park(word, seen);
        const auto spent = std::chrono::steady_clock::now() - begin;
        __atomic_fetch_add(place(), std::chrono::duration_cast<std::chrono::nanoseconds>(spent).count(), __ATOMIC_RELAXED);
    }

    static void park(int32_t* word, int32_t seen) {
#if defined(__linux__)
        const int32_t marked = seen | kSomebodyWaits;
        if (seen == marked || __atomic_compare_exchange_n(word, &seen, marked, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
            syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, marked, nullptr, nullptr, 0);
#else
        sched_yield();
#endif
    }

    int64_t* place() const {
#if defined(__linux__)
        return waited_ + syscall(SYS_gettid) % kWaitedPlaces;
#else
        return waited_;
#endif
    }

    int32_t* flags_;
    int64_t* waited_;
};
