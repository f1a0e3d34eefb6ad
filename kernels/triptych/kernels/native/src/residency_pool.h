// Slots of memory, the experts in them, and who reads them: what one rank computes its mixtures with.

#pragma once

#include <algorithm>
#include <chrono>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "residency_asked.h"
#include "residency_blobs.h"
#include "residency_ledger.h"
#include "residency_likely.h"
#include "residency_readers.h"
#include "residency_tables.h"

class Pool final : Places {
  public:
    explicit Pool(const PoolArgs& args)
        : args_(args), layers_(args.layer, args.layer + args.layers), ledger_(args.slots), cache_(args.slots, decisions(), *this),
          readers_(std::make_unique<Readers>(args.file, args.rounded, args.readers)) {
        alone_ = args.readers > 0 && readers_->none();
        for (int64_t l = 0; l < args.layers; ++l) {
            tables_.emplace_back(layers_[l]);
            blobs_.emplace_back(layers_[l], args.split);
            asked_.add_layer(layers_[l].experts);
        }
    }

    // Asks for the first wave of a layer's experts, which are all as a rule; `wave` asks for the others.
    void ensure(int32_t layer, const int32_t* ids, int64_t tokens, int64_t top_k) {
        wave_ = 0;
        again_ = false;
        window_[0] = 0;
        window_[1] = layers_[layer].experts;
        if (closed_) return;
        gather_waits();
        asked_.note(layer, ids, tokens, top_k);
        collect();
        const std::vector<bool> wanted = among(layer, ids, tokens * top_k);
        demand(promote(layer, wanted));  // first: what is not queued cannot be waited for
        std::vector<int32_t> experts;
        for (size_t e = 0; e < wanted.size(); ++e)
            if (wanted[e]) experts.push_back(static_cast<int32_t>(e));
        asked_.count(layer, experts);
        counts_.layers += 1;
        counts_.wasted_bytes += cache_.reach(layer, std::move(experts)) * layers_[layer].bytes;
        ask_for_wave();
    }

    // The step has computed with the last wave of its layer, and is to compute with this one.
    void wave(int64_t number) {
        if (number == wave_) return;
        wave_ = number;
        if (number == 0) {
            cache_.rewind();
            again_ = true;
        }
        window_[0] = number ? window_[1] : 0;
        if (closed_) return;
        collect();
        ask_for_wave();
    }

    void prefetch(int32_t layer, const std::vector<int32_t>& experts) {
        if (most_ == 0 || closed_) return;
        collect();
        std::vector<Read> reads;
        for (const Load& load : cache_.prefetch(layer, experts, most_)) {
            add(load, reads);
            ++counts_.prefetched;
        }
        readers_->speculate(reads);
    }

    // At most so many may be awaited at once; 0: nothing is read in advance.
    void allow(int64_t most) { most_ = most; }

    void warm(int32_t layer, int32_t expert) {
        std::vector<Read> reads;
        if (const auto load = cache_.warm(layer, expert)) add(*load, reads);
        readers_->speculate(reads);
    }

    // What failed and was asked for; all that failed is forgotten.
    std::vector<Failed> check() {
        collect();
        return ledger_.check(cache_);
    }

    // Between steps: the layer's experts are these blobs now; those that changed are forgotten.
    // `from` says at which place each was, -1 for none; `rounded` is null where none are to be read.
    void rebind(int32_t layer, const int64_t* offsets, const uint64_t* checksums, const int64_t* from, const RoundedArgs* rounded) {
        drop(readers_->withdraw([&](const Read& read) { return read.load.layer == layer; }));
        asked_.forget(layer);
        for (int32_t e = 0; e < layers_[layer].experts; ++e) {
            if (!blobs_[layer].differs(offsets, checksums, e)) continue;
            if (const int32_t slot = cache_.where(layer, e); slot >= 0) {
                while (ledger_.of(slot).open.load() && readers_->wait_for_one()) {
                }
                collect();
                cache_.dropped(slot);
            }
            blobs_[layer].replace(offsets, checksums, rounded, e);
        }
        cache_.rebind(layer, from);
    }

    // Ends the threads; from now on nobody has a slot that was not filled, so that no kernel waits.
    void close() {
        readers_->stop();
        drop(readers_->withdraw_all());
        collect();
        closed_ = true;
    }

    // In a forked child: the parent's threads are not here, and what they were reading never comes. Who asks reads.
    void forked() {
        (void)readers_.release();  // nobody may destroy what others held when they vanished
        readers_ = std::make_unique<Readers>(args_.file, args_.rounded, 0);
        alone_ = true;
        ledger_.forsake(cache_);
    }

    // Nothing is queued or under way afterwards.
    void settle() {
        while (readers_->wait_for_one()) {
        }
        collect();
    }

    bool read_one() {
        const bool found = readers_->wait_for_one();
        collect();
        return found;
    }

    Counts counts() {
        gather_waits();
        Counts counts = counts_;
        counts.reads += readers_->files().reads();
        counts.read_bytes += readers_->files().read_bytes();
        counts.failed_reads += readers_->files().failed();
        return counts;
    }

    const ExpertCache& cache() const { return cache_; }

    // [2] the first expert of the wave that the step is at, and the first after it.
    const int32_t* window() const { return window_; }

    Asked& asked() { return asked_; }

  private:
    // The step waits for these: first those of the wave that it computes with now, of which gate and up of all are read
    // before down of any; then those of the next.
    void demand(std::vector<Read> reads) {
        const auto turn = [&](const Read& read) { return 2 * (read.load.expert >= window_[1]) + read.parts[0].section; };
        std::stable_sort(reads.begin(), reads.end(), [&](const Read& a, const Read& b) { return turn(a) < turn(b); });
        readers_->demand(reads);
        if (alone_) settle();
    }

    void ask_for_wave() {
        const Ensured found = cache_.wave();
        window_[1] = cache_.after();
        std::vector<Read> reads;
        for (const Load& load : found.loads) add(load, reads);
        demand(std::move(reads));
        if (again_) return;  // a demand counts once, however often it is computed with
        counts_.demanded += found.hits + found.covered + found.loads.size();
        counts_.hits += found.hits;
        counts_.covered += found.covered;
        counts_.misses += found.loads.size();
    }

    std::vector<CachedLayer> decisions() const {
        std::vector<CachedLayer> found;
        for (const LayerArgs& layer : layers_)
            found.emplace_back(layer.quota, Scores(static_cast<Policy>(layer.policy), layer.values, layer.experts,
                                                   layer.steps, layer.decay, layer.worth));
        return found;
    }

    void gather_waits() {
        int64_t longest = 0;
        for (int64_t i = 0; i < kWaitedPlaces; ++i)
            longest = std::max(longest, __atomic_exchange_n(args_.waited + i, 0, __ATOMIC_RELAXED));
        counts_.stall_ns += longest;
    }

    std::vector<bool> among(int32_t layer, const int32_t* ids, int64_t count) const {
        std::vector<bool> wanted(layers_[layer].experts);
        for (int64_t i = 0; i < count; ++i)
            if (ids[i] >= 0 && ids[i] < layers_[layer].experts) wanted[ids[i]] = true;
        return wanted;
    }

    // Queued reads that the step now waits for; what was queued for this layer in vain is dropped.
    std::vector<Read> promote(int32_t layer, const std::vector<bool>& wanted) {
        std::vector<Read> reads = readers_->withdraw([&](const Read& read) {
            return read.load.layer == layer && (wanted[read.load.expert] || read.load.cause == Cause::Prefetch);
        });
        const auto unwanted = std::stable_partition(reads.begin(), reads.end(), [&](const Read& read) { return wanted[read.load.expert]; });
        drop({unwanted, reads.end()});
        reads.erase(unwanted, reads.end());
        return reads;
    }

    // Forgets what was queued, all reads of a slot or none: of what another part is under way the rest is queued again.
    // Returns how many slots are free now.
    int64_t drop(const std::vector<Read>& reads) {
        int64_t dropped = 0;
        std::unordered_map<const Progress*, int64_t> whole;
        for (const Read& read : reads) whole[read.progress] += read.steps();
        // One look at each slot: the part may come meanwhile, and of a slot that is given away nothing may be queued.
        std::erase_if(whole, [](const auto& slot) { return slot.first->open.load() != slot.second; });
        std::vector<Read> begun;
        for (const Read& read : reads) {
            const auto slot = whole.find(read.progress);
            if (slot == whole.end()) begun.push_back(read);
            else if (std::exchange(slot->second, 0)) ++dropped, forget(read.load);
        }
        readers_->speculate(begun);
        return dropped;
    }

    void forget(const Load& load) {
        ledger_.forget(load.slot);
        counts_.prefetched -= load.cause == Cause::Prefetch;
        cache_.dropped(load.slot);
    }

    // Reads for a load: of the rounded expert, where there is one, for those that no layer keeps.
    void add(const Load& load, std::vector<Read>& reads) {
        const LayerBlobs& blobs = blobs_[load.layer];
        const bool exact = !blobs.has_rounded() || load.cause == Cause::Warm || cache_.layer(load.layer).worth_keeping(load.expert);
        Read read{.load = load, .to = args_.memory + load.slot * args_.slot_bytes};
        read.flags = tables_[load.layer].flags(load.expert);
        read.placement = placement_of(read.flags);
        read.progress = &ledger_.of(load.slot);
        ledger_.begin(load.slot, blobs.add(read, exact, reads));
    }

    void collect() { ledger_.collect(cache_); }

    void placed(int32_t layer, int32_t expert, int32_t slot) override {
        tables_[layer].place(expert, args_.memory + slot * args_.slot_bytes);
    }

    void gone(const Slot& at, int32_t slot) override {
        tables_[at.layer].remove(at.expert);
        ledger_.gone(at, slot);
    }

    void make_room() override {
        const auto unneeded = [&](const Read& read) {
            return read.load.cause == Cause::Prefetch && !cache_.slots()[read.load.slot].pinned;
        };
        if (drop(readers_->withdraw(unneeded))) return;
        collect();
        if (const int32_t layer = cache_.release_one(); layer >= 0) {
            counts_.wasted_bytes += layers_[layer].bytes;
            return;
        }
        const auto begin = std::chrono::steady_clock::now();
        readers_->wait_for_one();
        counts_.stall_ns += std::chrono::nanoseconds(std::chrono::steady_clock::now() - begin).count();
        collect();
    }

    const PoolArgs args_;
    std::vector<LayerArgs> layers_;
    std::vector<LayerTables> tables_;
    std::vector<LayerBlobs> blobs_;
    Asked asked_;
    Ledger ledger_;
    bool closed_ = false, alone_ = false, again_ = false;
    int64_t most_ = 0, wave_ = 0;
    int32_t window_[2] = {};
    Counts counts_;
    ExpertCache cache_;
    std::unique_ptr<Readers> readers_;
};
