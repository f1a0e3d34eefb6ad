// What Python gives a pool, and takes from it: residency_args.py has the same structs.

#pragma once

#include <cstdint>

#include "residency_rounded.h"

// Of one layer, as Python gives it; the tables stay Python's.
struct LayerArgs {
    int64_t experts;
    int64_t first, bytes;       // of a blob's first section, and of both
    const int64_t* parts;       // [3, 3] where values, scales and bias of gate, up and down lie in a blob, -1 for none
    int64_t *gate, *up, *down;  // [3, experts] addresses
    int32_t* flags;             // [experts] arrivals.h
    const int64_t* offsets;     // [experts] of the blobs in the file
    const uint64_t* checksums;  // [experts, pieces] of both sections' pieces
    int64_t piece;              // bytes of one of them; the last of a section may be shorter
    int64_t quota, policy;
    const double* values;       // [experts] of the scores
    double steps, decay, worth;
    const RoundedArgs* rounded;  // null where none are to be read
};

struct PoolArgs {
    char* memory;      // [slots, slot_bytes]
    int64_t slots, slot_bytes;
    int64_t file;      // a descriptor
    int64_t rounded;   // that of the rounded experts
    int64_t readers;   // threads; without them nothing is read but by `triptych_residency_read`
    int64_t split;     // blobs of at least so many bytes are read in pieces
    int64_t* waited;   // [kWaitedPlaces] nanoseconds
    int64_t layers;
    const LayerArgs* layer;
};

struct Counts {
    int64_t layers = 0, demanded = 0, hits = 0, covered = 0, misses = 0, prefetched = 0, wasted_bytes = 0, reads = 0,
            read_bytes = 0, stall_ns = 0, failed_reads = 0;
};

struct Failed {
    int64_t layer, expert, failure;
};
