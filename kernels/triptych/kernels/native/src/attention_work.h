// What there is to do for a batch, and how it falls into pieces.
//
// A unit of work is (sequence, key head, tile of query rows, split of the tokens). A sequence whose query rows fit
// into one tile is split over its tokens when they are many, because there is little else to share; the splits leave
// their results in `partials`, which a second kernel merges. How a sequence is cut depends on its own lengths alone,
// so that its result does not depend on what else is in the batch.

#pragma once

#include <cstdint>
#include <initializer_list>

#include "kernel.h"

constexpr int64_t kTileRows = 48;   // query rows of a tile: tokens · heads of a group
constexpr int64_t kMaxSplits = 16;  // attention.py sizes `partials` by these three
constexpr int64_t kSplitTokens = 512;
constexpr int64_t kMaxHeads = 32;  // key heads of a piece
constexpr int64_t kMany = 8;       // sequences that keep all threads busy without being taken apart by heads

struct AttentionArgs {
    const void* q;                // [rows, heads, head_dim], rows q_stride elements apart
    void* pages;                  // pages.h
    const int32_t* query_start;   // [sequences + 1]
    const int32_t* kv_lengths;    // [sequences]
    const int32_t* block_tables;  // [sequences, …], rows table_stride apart
    const float* sinks;           // [heads], scores without a value; or null
    float* partials;              // [query rows of split sequences, heads, kMaxSplits, head_dim + 2]
    void* out;                    // as q, rows out_stride elements apart
    int64_t sequences, table_stride, q_stride, out_stride;
    int64_t heads, kv_heads, block_size, head_dim;
    int64_t window;  // tokens that a query sees; 0: all
    int64_t is_bf16;
    double scale, softcap;

    int64_t group() const { return heads / kv_heads; }
    int64_t tile_tokens() const { return clamp(kTileRows / group(), 1, kTileRows); }
};

// One sequence of the batch, in tokens.
struct Sequence {
    int64_t index, row, queries, length;  // row: its first query row
    int64_t begin;                        // the first token that any of its queries sees
    int64_t tiles, splits, split_tokens;

    Sequence(const AttentionArgs& args, int64_t index)
        : index(index),
          row(args.query_start[index]),
          queries(args.query_start[index + 1] - row),
          length(args.kv_lengths[index]),
          begin(args.window ? clamp(length - queries + 1 - args.window, 0, length) : 0),
          tiles(1),
          splits(1),
          split_tokens(length - begin) {
        if (queries > args.tile_tokens()) {
            tiles = (queries + args.tile_tokens() - 1) / args.tile_tokens();
        } else if (split_tokens > kSplitTokens) {
            const int64_t seen = split_tokens, unit = kSplitTokens * kMaxSplits;
            split_tokens = (seen + unit - 1) / unit * kSplitTokens;
            splits = (seen + split_tokens - 1) / split_tokens;
        }
    }
};

// Key heads [head, last_head), one tile and one split of a sequence.
struct Work {
    Sequence sequence;
    int64_t head, last_head, tile, split;
    int64_t partial_row;  // the sequence's first row in `partials`

    // The tokens of the split.
    int64_t first() const { return sequence.begin + split * sequence.split_tokens; }
    int64_t last() const {
        const int64_t end = first() + sequence.split_tokens;
        return end < sequence.length ? end : sequence.length;
    }
};

// All heads of a block are read together where they are one piece; where sequences are few, heads are what is shared.
inline int64_t heads_per_piece(const AttentionArgs& args, const Sequence& sequence) {
    const int64_t row_bytes = args.head_dim * 8 + 128;  // of scratch, at most
    const bool fits = args.kv_heads <= kMaxHeads && args.heads * args.tile_tokens() * row_bytes <= kScratchBytes / 2;
    return sequence.tiles == 1 && args.sequences >= kMany && fits ? args.kv_heads : 1;
}

inline int64_t pieces_of(const AttentionArgs& args, const Sequence& sequence) {
    return sequence.queries ? args.kv_heads / heads_per_piece(args, sequence) * sequence.tiles * sequence.splits : 0;
}

inline int64_t count_pieces(const AttentionArgs& args) {
    int64_t pieces = 0;
    for (int64_t i = 0; i < args.sequences; ++i) pieces += pieces_of(args, Sequence(args, i));
    return pieces;
}

// The work of piece `piece` of a sequence: its late tiles first, because they have more tokens to look at.
inline Work take_apart(const AttentionArgs& args, const Sequence& sequence, int64_t piece, int64_t partial_row) {
    const int64_t heads = heads_per_piece(args, sequence), share = args.kv_heads / heads;
    const int64_t head = piece % share * heads, rest = piece / share;
    const int64_t tile = sequence.tiles - 1 - rest / sequence.splits;
    return {sequence, head, head + heads, tile, rest % sequence.splits, partial_row};
}

// The work of a piece of the batch: prompt chunks come before the small work of single tiles, which fills the gaps.
inline Work find_work(const AttentionArgs& args, int64_t piece) {
    for (const bool chunks : {true, false}) {
        int64_t partial_row = 0;
        for (int64_t i = 0; i < args.sequences; ++i) {
            const Sequence sequence(args, i);
            if ((sequence.tiles > 1) == chunks) {
                const int64_t pieces = pieces_of(args, sequence);
                if (piece < pieces) return take_apart(args, sequence, piece, partial_row);
                piece -= pieces;
            }
            if (sequence.splits > 1) partial_row += sequence.queries;
        }
    }
    __builtin_unreachable();
}
