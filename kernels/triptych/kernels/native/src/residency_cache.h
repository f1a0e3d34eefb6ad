// Which expert is in which slot: the decisions of workers/triptych/experts/cache/expert_cache.py, the same in every
// step. What is said there of why is not said again here.

#pragma once

#include <algorithm>
#include <optional>
#include <utility>

#include "residency_layer.h"
#include "residency_slot.h"
#include "residency_spare.h"

struct Ensured {
    std::vector<Load> loads;
    int64_t hits = 0, covered = 0;
};

class ExpertCache {
  public:
    ExpertCache(int64_t slots, std::vector<CachedLayer> layers, Places& places)
        : slots_(slots), layers_(std::move(layers)), spare_(slots), places_(places) {}

    const std::vector<Slot>& slots() const { return slots_; }
    const CachedLayer& layer(int32_t number) const { return layers_[number]; }
    int32_t where(int32_t layer, int32_t expert) const { return layers_[layer].where(expert); }

    // A step is at a layer; returns how many experts were read in advance for it in vain.
    int64_t reach(int32_t layer, std::vector<int32_t> experts) {
        layers_[layer].scores.touch(experts);
        demand_ = {layer, std::move(experts), std::vector<bool>(layers_[layer].experts())};
        std::vector<bool> wanted(layers_[layer].experts());
        for (const int32_t expert : demand_.experts) wanted[expert] = true;
        int64_t unasked = 0;
        for (Slot& at : slots_) {
            if (!awaited_) break;
            if (at.awaited_by != layer) continue;
            at.awaited_by = -1;
            --awaited_;
            demand_.covered[at.expert] = wanted[at.expert];
            unasked += !wanted[at.expert];
        }
        return unasked;
    }

    // Slots for as many as have room beside all that layers keep. Where that is not everybody, the step computes with
    // those in half of the room now, while the rest is read.
    Ensured wave() {
        unpin();
        pin_taken();
        for (size_t place = demand_.experts.size(); place-- > demand_.taken;)
            if (const int32_t slot = place_of(place); slot >= 0 && spare_.has(slot)) spare_.to_end(slot);
        const Ensured found = take();
        compute(demand_.taken == demand_.experts.size() ? demand_.taken : half());
        return found;
    }

    void rewind() { demand_.next = demand_.taken = 0; }

    // The first expert that no wave has had.
    int32_t after() const {
        return demand_.next < demand_.experts.size() ? demand_.experts[demand_.next] : layers_[demand_.layer].experts();
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
        if (!layers_[layer].has_room() || where(layer, expert) >= 0) return std::nullopt;
        const int32_t slot = oldest();
        if (slot < 0) return std::nullopt;
        const Load found = load(layer, expert, Cause::Warm, slot);
        keep(layer, expert, slot);
        return found;
    }

    void loaded(int32_t slot) {
        Slot& at = slots_[slot];
        if (at.state == State::Loading) at.state = State::Ready;
    }

    void dropped(int32_t slot) {
        if (slots_[slot].state != State::Empty) layers_[slots_[slot].layer].let_go(slots_[slot].expert);
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
    // Of the layer that the step is at.
    struct Demand {
        int32_t layer = 0;
        std::vector<int32_t> experts;  // ascending
        std::vector<bool> covered;     // by expert: it was read in advance
        size_t next = 0;               // place of the first that nobody computes with yet
        size_t taken = 0;              // and of the first that no slot has been taken for
    };

    // Of an expert of the demand: its slot.
    int32_t place_of(size_t place) const { return where(demand_.layer, demand_.experts[place]); }

    // Whoever was dropped between two waves (it had failed, or its reader is in another process) is taken again, and
    // all behind.
    void pin_taken() {
        for (size_t place = demand_.next; place < demand_.taken; ++place) {
            const int32_t slot = place_of(place);
            if (slot < 0) demand_.taken = place;
            else pin(slot);
        }
    }

    // Slots for experts of the demand, until there is no room.
    Ensured take() {
        Ensured found;
        for (; demand_.taken < demand_.experts.size(); ++demand_.taken) {
            const int32_t expert = demand_.experts[demand_.taken];
            if (const int32_t slot = where(demand_.layer, expert); slot >= 0) {
                pin(slot);
                ++(demand_.covered[expert] ? found.covered : found.hits);
                continue;
            }
            const int32_t slot = room();
            if (slot < 0) break;
            found.loads.push_back(load(demand_.layer, expert, Cause::Demand, slot));
        }
        return found;
    }

    // Place of the first that is not in the first half of the spare slots.
    size_t half() const {
        int64_t passing = std::max<int64_t>(spare_.count() / 2, 1);
        size_t place = demand_.next;
        for (; passing && place < demand_.taken; ++place) passing -= spare_.has(place_of(place));
        return place;
    }

    void compute(size_t end) {
        for (size_t place = demand_.next; place < end; ++place) use(place_of(place));
        for (size_t place = demand_.next; place < end; ++place) settle(demand_.layer, demand_.experts[place]);
        demand_.next = end;
    }

    Load load(int32_t layer, int32_t expert, Cause cause, int32_t slot) {
        forget(slot);
        slots_[slot] = {State::Loading, layer, expert, cause};
        layers_[layer].place(expert, slot);
        spare_.to_end(slot);
        if (cause == Cause::Demand) pin(slot);
        places_.placed(layer, expert, slot);
        return {slot, layer, expert, cause};
    }

    // A slot that nobody keeps, -1 when the step needs all of them.
    int32_t room() {
        for (;; places_.make_room()) {
            if (const int32_t slot = oldest(); slot >= 0) return slot;
            if (first_spare([](const Slot& at) { return !at.pinned; }) < 0) return -1;
        }
    }

    // The oldest spare slot that nobody needs, -1 when there is none.
    int32_t oldest() const { return first_spare(free); }

    template <class Chosen>
    int32_t first_spare(Chosen&& chosen) const {
        for (int32_t slot = spare_.first(); slot != spare_.end(); slot = spare_.after(slot))
            if (chosen(slots_[slot])) return slot;
        return -1;
    }

    static bool free(const Slot& at) { return !at.pinned && at.state != State::Loading && at.awaited_by < 0; }

    void settle(int32_t layer, int32_t expert) {
        CachedLayer& own = layers_[layer];
        const int32_t slot = own.where(expert);
        if (own.keeps(expert)) return;
        if (own.has_room()) return keep(layer, expert, slot);
        const int32_t other = own.least();
        if (!own.worth_more(expert, other)) return spare_.to_end(slot);
        own.let_go(other);
        spare_.to_end(own.where(other));
        keep(layer, expert, slot);
    }

    void keep(int32_t layer, int32_t expert, int32_t slot) {
        layers_[layer].keep(expert);
        spare_.remove(slot);
    }

    void use(int32_t slot) {
        Slot& at = slots_[slot];
        at.asked = true;
        if (at.state == State::Loading && at.cause == Cause::Prefetch) at.cause = Cause::Demand;
    }

    void forget(int32_t slot) {
        const Slot at = slots_[slot];
        if (at.state == State::Empty) return;
        layers_[at.layer].place(at.expert, -1);
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

    void unpin() {
        for (const int32_t slot : pinned_) slots_[slot].pinned = false;
        pinned_.clear();
    }

    std::vector<Slot> slots_;
    std::vector<CachedLayer> layers_;
    Spare spare_;
    Places& places_;
    Demand demand_;
    std::vector<int32_t> pinned_;
    int64_t awaited_ = 0;
};
