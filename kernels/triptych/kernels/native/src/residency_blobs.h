// Where a layer's experts lie in the files, and the reads that bring them.

#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "residency_args.h"
#include "residency_read.h"

// Of experts that are laid out alike: two sections, each read and verified in pieces.
class Blobs {
  public:
    Blobs(int64_t first, int64_t bytes, int64_t piece)
        : sections_{first, bytes - first}, piece_(piece), pieces_{(first + piece - 1) / piece, (bytes - first + piece - 1) / piece} {}

    // Appends an expert of those that Python gives.
    void add(const int64_t* offsets, const uint64_t* checksums, int64_t expert) { blobs_.push_back(of(offsets, checksums, expert)); }

    // Whether an expert is another one now.
    bool differs(const int64_t* offsets, const uint64_t* checksums, int64_t expert) const {
        return blobs_[expert] != of(offsets, checksums, expert);
    }

    // Nobody may be reading the expert.
    void replace(const int64_t* offsets, const uint64_t* checksums, int64_t expert) {
        blobs_[expert] = of(offsets, checksums, expert);
    }

    // All of it at once.
    Read whole(Read read) const {
        const Blob& blob = blobs_[read.load.expert];
        read.offset = blob.offset;
        read.piece = piece_;
        read.parts[0] = {0, sections_[0], blob.checksums.data()};
        read.parts[1] = {1, sections_[1], blob.checksums.data() + pieces_[0]};
        read.count = 2;
        return read;
    }

    // Piece by piece, gate and up before down; how many of both sections in one number.
    int64_t split(Read read, std::vector<Read>& reads) const {
        const Blob& blob = blobs_[read.load.expert];
        read.offset = blob.offset;
        read.piece = piece_;
        read.count = 1;
        const uint64_t* checksum = blob.checksums.data();
        for (int section = 0; section < 2; ++section)
            for (int64_t left = sections_[section]; left > 0; left -= piece_) {
                read.parts[0] = {section, std::min(left, piece_), checksum++};
                reads.push_back(read);
                read.to += read.parts[0].bytes;
                read.offset += read.parts[0].bytes;
            }
        return pieces_[0] * kSections[0] + pieces_[1] * kSections[1];
    }

  private:
    struct Blob {
        int64_t offset;
        std::vector<uint64_t> checksums;
        bool operator==(const Blob&) const = default;
    };

    Blob of(const int64_t* offsets, const uint64_t* checksums, int64_t expert) const {
        const int64_t pieces = pieces_[0] + pieces_[1];
        return {offsets[expert], {checksums + expert * pieces, checksums + (expert + 1) * pieces}};
    }

    int64_t sections_[2], piece_, pieces_[2];
    std::vector<Blob> blobs_;
};

// The experts of a layer, and the rounded ones where they may be read.
class LayerBlobs {
  public:
    LayerBlobs(const LayerArgs& layer, int64_t split) : exact_(layer.first, layer.bytes, layer.piece), whole_(layer.bytes < split) {
        for (int64_t e = 0; e < layer.experts; ++e) exact_.add(layer.offsets, layer.checksums, e);
        if (!layer.rounded) return;
        expansion_.emplace(*layer.rounded, layer.parts);
        rounded_.emplace(layer.rounded->first, layer.rounded->bytes, layer.rounded->piece);
        for (int64_t e = 0; e < layer.experts; ++e) rounded_->add(layer.rounded->offsets, layer.rounded->checksums, e);
    }

    bool has_rounded() const { return rounded_.has_value(); }

    // Reads of an exact expert or of a rounded one, and how many: as `Progress::open` has it.
    int64_t add(Read read, bool exact, std::vector<Read>& reads) const {
        if (exact && !whole_) return exact_.split(read, reads);
        if (!exact) read.expansion = &*expansion_;
        reads.push_back((exact ? exact_ : *rounded_).whole(read));
        return reads.back().steps();
    }

    bool differs(const int64_t* offsets, const uint64_t* checksums, int64_t expert) const {
        return exact_.differs(offsets, checksums, expert);
    }

    void replace(const int64_t* offsets, const uint64_t* checksums, const RoundedArgs* rounded, int64_t expert) {
        exact_.replace(offsets, checksums, expert);
        if (rounded) rounded_->replace(rounded->offsets, rounded->checksums, expert);
    }

  private:
    Blobs exact_;
    bool whole_;
    std::optional<Blobs> rounded_;
    std::optional<Expansion> expansion_;
};
