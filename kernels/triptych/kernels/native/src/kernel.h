// What a kernel looks like from outside: a pair of C functions over a struct of arguments.
//
//   int64_t NAME_pieces(const Args*)                              how many independent pieces the work falls into
//   void    NAME_run(const Args*, int64_t piece, char* scratch)   computes one of them
//
// Any thread may run any piece, each is run exactly once, and no two of them write to the same place; so the result
// does not depend on who ran what. The number of pieces depends on the arguments alone, never on the threads.
// Fields of arguments are pointers, int64_t and double only: Python describes the same struct with ctypes.

#pragma once

#include <cstdint>

constexpr int64_t kScratchBytes = 4 << 20;  // per thread, aligned to 64 bytes, contents undefined

#define TRIPTYCH_KERNEL(name, Args, pieces, run)                                                          \
    extern "C" int64_t name##_pieces(const void* args) { return pieces(*static_cast<const Args*>(args)); } \
    extern "C" void name##_run(const void* args, int64_t piece, char* scratch) {                          \
        run(*static_cast<const Args*>(args), piece, scratch);                                             \
    }

// [first, last) of `count` things, in units of `unit`, that belong to piece `piece` of `pieces`.
struct Range {
    int64_t first, last;
};

inline Range share(int64_t count, int64_t unit, int64_t piece, int64_t pieces) {
    const int64_t units = (count + unit - 1) / unit;
    const int64_t first = units * piece / pieces * unit, last = units * (piece + 1) / pieces * unit;
    return {first, last < count ? last : count};
}

inline int64_t clamp(int64_t value, int64_t low, int64_t high) { return value < low ? low : value > high ? high : value; }
