// Which expert is in which slot: the decisions of workers/triptych/experts/cache/expert_cache.py, the same in every
// step. What is said there of why is not said again here.

#pragma once

#include <algorithm>
#include <optional>
#include <utility>

#include "residency_scores.h"
#include "residency_spare.h"

enum class Cause : int32_t { Demand, Prefetch, Warm };
enum class State : int32_t { Empty, Loading, Ready };

struct Slot {
    State state = State::Empty;
    int32_t layer = -1, expert = -1;
    Cause cause = Cause::Demand;
    bool pinned = false;      // of the layer that the step is at
    bool asked = false;       // since it was read
    int32_t awaited_by = -1;  // the layer that it was read for in advance, until the step is there
};

struct Load {
    int32_t slot, layer, expert;
    Cause cause;
};

struct Ensured {
    std::vector<Load> loads;
    int64_t hits = 0, covered = 0;
    std::vector<int32_t> unasked;  // slots of what was read in advance for nothing
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

class ExpertCache {
  public:
    struct Layer {
        int64_t quota;
        Scores scores;
        std::vector<int32_t> where;  // slot of each expert, -1 for none
        std::vector<bool> kept;
        int64_t keeps = 0;

        Layer(int64_t quota, Scores scores)
            : quota(quota), scores(std::move(scores)), where(this->scores.count(), -1), kept(where.size()) {}
    };

    ExpertCache(int64_t slots, std::vector<Layer> layers, Places& places)
        : slots_(slots), layers_(std::move(layers)), spare_(slots), places_(places) {}

    const std::vector<Slot>& slots() const { return slots_; }
    int32_t where(int32_t layer, int32_t expert) const { return layers_[layer].where[expert]; }

    Ensured ensure(int32_t layer, const std::vector<int32_t>& experts) {
        Ensured found;
        Layer& own = layers_[layer];
        for (const int32_t slot : pinned_) slots_[slot].pinned = false;
        pinned_.clear();
        own.scores.touch(experts);
        std::vector<bool> there(own.where.size());
        for (const int32_t expert : experts) {
            const int32_t slot = own.where[expert];
            if (slot < 0) continue;
            there[expert] = true;
            pin(slot);
            slots_[slot].awaited_by == layer ? ++found.covered : ++found.hits;
        }
        for (int32_t slot = 0; awaited_ && slot < static_cast<int32_t>(slots_.size()); ++slot) {
            if (slots_[slot].awaited_by != layer) continue;
            slots_[slot].awaited_by = -1;
            --awaited_;
            if (!slots_[slot].pinned) found.unasked.push_back(slot);
        }
        for (const int32_t expert : experts)
            if (!there[expert]) found.loads.push_back(load(layer, expert, Cause::Demand, room(layer)));
        for (const int32_t expert : experts) use(own.where[expert]);
        for (const int32_t expert : experts) settle(layer, expert, own.where[expert]);
        return found;
    }

    std::vector<Load> prefetch(int32_t layer, const std::vector<int32_t>& experts, int64_t most) {
        std::vector<Load> loads;
        std::vector<int32_t> there;  // they do not make room for others
        for (const int32_t expert : experts)
            if (where(layer, expert) >= 0) there.push_back(where(layer, expert));
        std::sort(there.begin(), there.end());
        for (const int32_t slot : there)
            if (spare_.has(slot)) spare_.to_end(slot);
        for (const int32_t expert : experts) {
            if (where(layer, expert) >= 0) continue;
            const int32_t slot = oldest();
            if (awaited_ >= most || slot < 0 || std::binary_search(there.begin(), there.end(), slot)) break;
            loads.push_back(load(layer, expert, Cause::Prefetch, slot));
            slots_[slot].awaited_by = layer;
            ++awaited_;
        }
        return loads;
    }

    std::optional<Load> warm(int32_t layer, int32_t expert) {
        if (layers_[layer].keeps >= layers_[layer].quota || where(layer, expert) >= 0) return std::nullopt;
        const int32_t slot = oldest();
        if (slot < 0) return std::nullopt;
        const Load found = load(layer, expert, Cause::Warm, slot);
        keep(layer, expert, slot);
        return found;
    }

    // Whether its layer keeps an expert, or would if it were asked for now.
    bool worth_keeping(int32_t layer, int32_t expert) const {
        const Layer& own = layers_[layer];
        if (own.kept[expert] || own.keeps < own.quota) return true;
        const int32_t other = least(layer, [](int32_t) { return true; });
        return other >= 0 && own.scores.of(expert) > own.scores.of(other);
    }

    void loaded(int32_t slot) {
        Slot& at = slots_[slot];
        if (at.state == State::Loading) at.state = State::Ready;
    }

    void dropped(int32_t slot) {
        let_go(slot);
        forget(slot);
        release(slot);
        spare_.to_front(slot);
    }

    // Scores go with the experts: where each place's was before, -1 for nowhere.
    void rebind(int32_t layer, const int64_t* from) { layers_[layer].scores.move(from); }

    // The first slot that waits for a layer to come waits no longer; that layer, -1 when there is none.
    int32_t release_one() {
        for (int32_t slot = 0; slot < static_cast<int32_t>(slots_.size()); ++slot)
            if (slots_[slot].awaited_by >= 0 && slots_[slot].state == State::Ready && !slots_[slot].pinned) {
                const int32_t layer = slots_[slot].awaited_by;
                release(slot);
                return layer;
            }
        return -1;
    }

  private:
    Load load(int32_t layer, int32_t expert, Cause cause, int32_t slot) {
        forget(slot);
        slots_[slot] = {State::Loading, layer, expert, cause};
        layers_[layer].where[expert] = slot;
        spare_.to_end(slot);
        if (cause == Cause::Demand) pin(slot);
        places_.placed(layer, expert, slot);
        return {slot, layer, expert, cause};
    }

    // A slot for what a layer asks for.
    int32_t room(int32_t layer) {
        for (;; places_.make_room()) {
            if (const int32_t slot = oldest(); slot >= 0) return slot;
            if (const int32_t slot = taken(layer); slot >= 0) return slot;
        }
    }

    // The oldest spare slot that nobody needs, -1 when there is none.
    int32_t oldest() const {
        for (int32_t slot = spare_.first(); slot != spare_.end(); slot = spare_.after(slot))
            if (free(slot)) return slot;
        return -1;
    }

    // From the layers that come again last: the slot of the least that they keep, -1 when all are needed.
    int32_t taken(int32_t layer) {
        const auto count = static_cast<int32_t>(layers_.size());
        for (int32_t back = 1; back <= count; ++back) {
            const int32_t owner = ((layer - back) % count + count) % count;
            const int32_t expert = least(owner, [&](int32_t slot) { return free(slot); });
            if (expert < 0) continue;
            const int32_t slot = layers_[owner].where[expert];
            let_go(slot);
            return slot;
        }
        return -1;
    }

    bool free(int32_t slot) const {
        const Slot& at = slots_[slot];
        return !at.pinned && at.state != State::Loading && at.awaited_by < 0;
    }

    // The expert of the lowest score that a layer keeps, of two the one of the lower number; -1 when there is none.
    template <class Allowed>
    int32_t least(int32_t layer, Allowed&& allowed) const {
        const Layer& own = layers_[layer];
        int32_t found = -1;
        for (int32_t e = 0; e < static_cast<int32_t>(own.where.size()); ++e)
            if (own.kept[e] && allowed(own.where[e]) && (found < 0 || own.scores.of(e) < own.scores.of(found))) found = e;
        return found;
    }

    void settle(int32_t layer, int32_t expert, int32_t slot) {
        Layer& own = layers_[layer];
        if (own.kept[expert]) return;
        if (own.keeps < own.quota) return keep(layer, expert, slot);
        const int32_t other = own.quota ? least(layer, [](int32_t) { return true; }) : -1;
        if (other < 0 || own.scores.of(expert) <= own.scores.of(other)) return spare_.to_end(slot);
        const int32_t freed = own.where[other];
        let_go(freed);
        spare_.to_end(freed);
        keep(layer, expert, slot);
    }

    void keep(int32_t layer, int32_t expert, int32_t slot) {
        layers_[layer].keeps += !layers_[layer].kept[expert];
        layers_[layer].kept[expert] = true;
        spare_.remove(slot);
    }

    // Its layer keeps it no longer.
    void let_go(int32_t slot) {
        const Slot& at = slots_[slot];
        if (at.state == State::Empty || !layers_[at.layer].kept[at.expert]) return;
        layers_[at.layer].kept[at.expert] = false;
        --layers_[at.layer].keeps;
    }

    void use(int32_t slot) {
        Slot& at = slots_[slot];
        at.asked = true;
        if (at.state == State::Loading && at.cause == Cause::Prefetch) at.cause = Cause::Demand;
    }

    void forget(int32_t slot) {
        const Slot at = slots_[slot];
        if (at.state == State::Empty) return;
        layers_[at.layer].where[at.expert] = -1;
        slots_[slot] = {.pinned = at.pinned, .awaited_by = at.awaited_by};
        places_.gone(at, slot);
    }

    void release(int32_t slot) {
        slots_[slot].pinned = false;
        if (slots_[slot].awaited_by >= 0) --awaited_;
        slots_[slot].awaited_by = -1;
    }

    void pin(int32_t slot) {
        slots_[slot].pinned = true;
        pinned_.push_back(slot);
    }

    std::vector<Slot> slots_;
    std::vector<Layer> layers_;
    Spare spare_;
    Places& places_;
    std::vector<int32_t> pinned_;
    int64_t awaited_ = 0;
};
