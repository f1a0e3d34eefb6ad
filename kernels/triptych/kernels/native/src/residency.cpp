// Experts that do not all fit: the C functions of a pool (residency_pool.h), and the kernels of a step that it has.

#include "residency_pool.h"

namespace {

struct EnsureArgs {
    Pool* pool;
    int64_t layer;
    const int32_t* ids;  // [tokens, top_k]
    int64_t tokens, top_k;
};

struct WaveArgs {
    Pool* pool;
    int64_t number;
};

struct PrefetchArgs {
    Pool* pool;
    int64_t layer;
    const float* scores;  // [tokens, experts], a row every `stride` of them
    int64_t stride, tokens, experts, top;
};

template <class Args>
int64_t one_piece(const Args&) {
    return 1;
}

void ensure(const EnsureArgs& args, int64_t, char*) {
    args.pool->ensure(static_cast<int32_t>(args.layer), args.ids, args.tokens, args.top_k);
}

void wave(const WaveArgs& args, int64_t, char*) { args.pool->wave(args.number); }

void prefetch(const PrefetchArgs& args, int64_t, char*) {
    args.pool->prefetch(static_cast<int32_t>(args.layer), likely(args.scores, args.stride, args.tokens, args.experts, args.top));
}

}  // namespace

TRIPTYCH_KERNEL(residency_ensure, EnsureArgs, one_piece, ensure)
TRIPTYCH_KERNEL(residency_wave, WaveArgs, one_piece, wave)
TRIPTYCH_KERNEL(residency_prefetch, PrefetchArgs, one_piece, prefetch)

extern "C" Pool* triptych_residency_open(const PoolArgs* args) { return new Pool(*args); }

extern "C" const int32_t* triptych_residency_window(const Pool* pool) { return pool->window(); }

extern "C" void triptych_residency_close(Pool* pool) { pool->close(); }

extern "C" void triptych_residency_free(Pool* pool) { delete pool; }

extern "C" void triptych_residency_forked(Pool* pool) { pool->forked(); }

extern "C" void triptych_residency_allow(Pool* pool, int64_t most) { pool->allow(most); }

extern "C" void triptych_residency_warm(Pool* pool, int64_t layer, int64_t expert) {
    pool->warm(static_cast<int32_t>(layer), static_cast<int32_t>(expert));
}

// How many failed and were asked for; the first `room` of them.
extern "C" int64_t triptych_residency_check(Pool* pool, Failed* failed, int64_t room) {
    const auto found = pool->check();
    std::copy_n(found.begin(), std::min<int64_t>(room, found.size()), failed);
    return static_cast<int64_t>(found.size());
}

extern "C" void triptych_residency_rebind(Pool* pool, int64_t layer, const int64_t* offsets, const uint64_t* checksums,
                                          const int64_t* from, const RoundedArgs* rounded) {
    pool->rebind(static_cast<int32_t>(layer), offsets, checksums, from, rounded);
}

extern "C" void triptych_residency_settle(Pool* pool) { pool->settle(); }

extern "C" int64_t triptych_residency_read(Pool* pool) { return pool->read_one(); }

extern "C" void triptych_residency_counts(Pool* pool, Counts* counts) { *counts = pool->counts(); }

// Of every slot: state, layer, expert, cause.
extern "C" void triptych_residency_slots(Pool* pool, int32_t* out) {
    for (const Slot& slot : pool->cache().slots())
        for (const int32_t value : {static_cast<int32_t>(slot.state), slot.layer, slot.expert, static_cast<int32_t>(slot.cause)})
            *out++ = value;
}

// Of a layer's experts: by how many steps they were asked for.
extern "C" void triptych_residency_uses(Pool* pool, int64_t layer, int64_t* out) {
    std::copy(pool->asked().uses(layer).begin(), pool->asked().uses(layer).end(), out);
}

extern "C" void triptych_residency_trace(Pool* pool, int64_t on) { pool->asked().trace(on); }

extern "C" int64_t triptych_residency_traced(Pool* pool) { return static_cast<int64_t>(pool->asked().traced().size()); }

// Moves what was asked for to `out`: layer, tokens, top_k and the ids, one after the other.
extern "C" void triptych_residency_drain(Pool* pool, int32_t* out) {
    std::copy(pool->asked().traced().begin(), pool->asked().traced().end(), out);
    pool->asked().traced().clear();
}
