// How far the reads of every slot are, and what came of them: what readers leave for the thread that decides.

#pragma once

#include <utility>
#include <vector>

#include "residency_args.h"
#include "residency_read.h"

class Ledger {
  public:
    explicit Ledger(int64_t slots) : progress_(slots) {}

    Progress& of(int32_t slot) { return progress_[slot]; }

    // So many reads of a slot are queued, as `Progress::open` has them.
    void begin(int32_t slot, int64_t reads) {
        progress_[slot].failure.store(Failure::None);
        progress_[slot].open.store(reads);
        loading_.push_back(slot);
    }

    // Nothing of a slot is read any more: nobody is to be told of it.
    void forget(int32_t slot) {
        progress_[slot].open.store(0);
        std::erase(loading_, slot);
    }

    // Tells the cache what has been read.
    void collect(ExpertCache& cache) {
        std::erase_if(loading_, [&](int32_t slot) {
            if (progress_[slot].open.load(std::memory_order_acquire)) return false;
            failures_ |= progress_[slot].failure.load(std::memory_order_relaxed) != Failure::None;
            cache.loaded(slot);
            return true;
        });
    }

    // An expert loses its slot: a failure that nobody has been told of is not forgotten with it.
    void gone(const Slot& at, int32_t slot) {
        const Failure failure = progress_[slot].failure.load();
        if (failure == Failure::None || at.state != State::Ready) return;
        if (at.asked) displaced_.push_back({at.layer, at.expert, static_cast<int64_t>(failure)});
    }

    // What failed and was asked for; all that failed is forgotten.
    std::vector<Failed> check(ExpertCache& cache) {
        std::vector<Failed> failed = std::exchange(displaced_, {});
        for (int32_t slot = 0; failures_ && slot < static_cast<int32_t>(progress_.size()); ++slot) {
            const Failure failure = progress_[slot].failure.load();
            const Slot at = cache.slots()[slot];
            if (failure == Failure::None || at.state != State::Ready) continue;
            progress_[slot].failure.store(Failure::None);
            if (at.asked) failed.push_back({at.layer, at.expert, static_cast<int64_t>(failure)});
            cache.dropped(slot);
        }
        failures_ = false;
        return failed;
    }

    // What is being read never comes.
    void forsake(ExpertCache& cache) {
        for (const int32_t slot : std::exchange(loading_, {})) {
            progress_[slot].open.store(0);
            cache.dropped(slot);
        }
    }

  private:
    std::vector<Progress> progress_;
    std::vector<int32_t> loading_;
    std::vector<Failed> displaced_;  // asked for, unread, and out of their slots before the step was over
    bool failures_ = false;
};
