// A read of an expert, or of a piece of it, and what makes it one that kernels may look at.

#pragma once

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>

#include "arrivals.h"
#include "residency_cache.h"
#include "residency_rounded.h"
#include "xxh3.h"

enum class Failure : int32_t { None, Damaged, Unreadable };

constexpr int64_t kSections[] = {1, int64_t{1} << 32};  // a read of each, in one number
constexpr int32_t kBrings[] = {kGateUpThere, kDownThere};

// Where a slot stands, between its readers and the thread that decides.
struct Progress {
    std::atomic<int64_t> open{0};  // reads that are not done, of both sections in one number: it takes one step to be the last
    std::atomic<Failure> failure{Failure::None};

    // Whether it is the first.
    bool fail(Failure with) {
        Failure none = Failure::None;
        return failure.compare_exchange_strong(none, with, std::memory_order_relaxed);
    }
};

// Of a section: some of its pieces, or all.
struct Part {
    int section;
    int64_t bytes;
    const uint64_t* checksums;
};

struct Read {
    Load load;
    char* to;
    int64_t offset;  // in the file
    int64_t piece;   // bytes that a checksum is of
    Part parts[2];
    int count;
    int32_t* flags;              // of the expert
    int32_t placement;           // that it is read for
    Progress* progress;
    const Expansion* expansion;  // of a rounded expert; null of an exact one

    int64_t bytes() const { return count == 1 ? parts[0].bytes : parts[0].bytes + parts[1].bytes; }
    int64_t steps() const { return count == 1 ? kSections[parts[0].section] : kSections[0] + kSections[1]; }

    // What is there once so much is left of the slot's reads.
    int32_t brings(int64_t left) const {
        int32_t found = 0;
        for (int i = 0; i < count; ++i)
            if (!(parts[i].section ? left >> 32 : left & 0xffffffff)) found |= kBrings[parts[i].section];
        return found;
    }
};

// The files, and what has been read of them.
class Files {
  public:
    Files(int64_t exact, int64_t rounded) : exact_(static_cast<int>(exact)), rounded_(static_cast<int>(rounded)) {}

    // Reads into `at`, where an expert lies before it is expanded.
    void bring(const Read& read, char* at) {
        const Failure failure = at && fill(read, at) ? look_at(read, at) : Failure::Unreadable;
        if (failure == Failure::None && read.expansion) (*read.expansion)(at, read.to);
        if (failure != Failure::None) failed_.fetch_add(read.progress->fail(failure), std::memory_order_relaxed);
        read_bytes_.fetch_add(read.bytes(), std::memory_order_relaxed);
        // Before whoever waits goes on: what the next layer decides does not depend on how far this thread is.
        const int64_t left = read.progress->open.fetch_sub(read.steps(), std::memory_order_acq_rel) - read.steps();
        reads_.fetch_add(left == 0, std::memory_order_relaxed);
        // From here on the slot may be another expert's. Of a failed read, too: nobody may wait for ever.
        if (const int32_t brings = read.brings(left)) arrive(read.flags, read.placement, brings);
    }

    int64_t reads() const { return reads_.load(std::memory_order_relaxed); }
    int64_t read_bytes() const { return read_bytes_.load(std::memory_order_relaxed); }
    int64_t failed() const { return failed_.load(std::memory_order_relaxed); }

  private:
    bool fill(const Read& read, char* at) const {
        const int file = read.expansion ? rounded_ : exact_;
        for (int64_t done = 0; done < read.bytes();) {
            const ssize_t got = pread(file, at + done, read.bytes() - done, read.offset + done);
            if (got > 0) done += got;
            else if (got == 0 || errno != EINTR) return false;
        }
        return true;
    }

    static Failure look_at(const Read& read, const char* data) {
        for (const Part* part = read.parts; part != read.parts + read.count; data += part++->bytes)
            for (int64_t at = 0; at < part->bytes; at += read.piece)
                if (Xxh3::of(data + at, std::min(read.piece, part->bytes - at)) != part->checksums[at / read.piece])
                    return Failure::Damaged;
        return Failure::None;
    }

    const int exact_, rounded_;
    std::atomic<int64_t> reads_{0}, read_bytes_{0}, failed_{0};
};
