// XXH3 of 64 bits with seed 0 (github.com/Cyan4973/xxHash, doc/xxhash_spec.md), of at least 241 bytes: what is hashed
// here is pages.

#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "simd.h"
#include "wide.h"

class Xxh3 {
  public:
    static uint64_t of(const char* data, int64_t bytes) {
        uint64_t sums[8] = {kPrime32[2], kPrime64[0], kPrime64[1], kPrime64[2], kPrime64[3], kPrime32[1], kPrime64[4], kPrime32[0]};
        add_all(data, bytes, sums);
        uint64_t hash = static_cast<uint64_t>(bytes) * kPrime64[0];
        for (int i = 0; i < 4; ++i)
            hash += folded(sums[2 * i] ^ secret(kMerging + 16 * i), sums[2 * i + 1] ^ secret(kMerging + 16 * i + 8));
        hash = (hash ^ hash >> 37) * 0x165667919E3779F9;
        return hash ^ hash >> 32;
    }

  private:
    using Lanes = uint64_t __attribute__((vector_size(64)));

    static constexpr int64_t kStripe = 64, kStripes = 16, kBlock = kStripe * kStripes;
    static constexpr int64_t kScrambling = 128, kLast = 121, kMerging = 11;  // where in the secret
    static constexpr uint64_t kPrime32[] = {0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D};
    static constexpr uint64_t kPrime64[] = {0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9,
                                            0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5};
    static constexpr uint64_t kSecret[] = {
        0xbe4ba423396cfeb8, 0x1cad21f72c81017c, 0xdb979083e96dd4de, 0x1f67b3b7a4a44072, 0x78e5c0cc4ee679cb, 0x2172ffcc7dd05a82,
        0x8e2443f7744608b8, 0x4c263a81e69035e0, 0xcb00c391bb52283c, 0xa32e531b8b65d088, 0x4ef90da297486471, 0xd8acdea946ef1938,
        0x3f349ce33f76faa8, 0x1d4f0bc7c7bbdcf9, 0x3159b4cd4be0518a, 0x647378d9c97e9fc8, 0xc3ebd33483acc5ea, 0xeb6313faffa081c5,
        0x49daf0b751dd0d17, 0x9e68d429265516d3, 0xfca1477d58be162b, 0xce31d07ad1b8f88f, 0x280416958f3acb45, 0x7e404bbbcafbd7af};

    TRIPTYCH_WIDE static void add_all(const char* data, int64_t bytes, uint64_t* sums) {
        Lanes lanes = load(sums);
        const char* const end = data + bytes;
        for (; end - data > kBlock; data += kBlock) {
            for (int64_t i = 0; i < kStripes; ++i) add(lanes, data + kStripe * i, 8 * i);
            lanes = (lanes ^ lanes >> 47 ^ key(kScrambling)) * kPrime32[0];
        }
        for (int64_t i = 0; kStripe * (i + 1) < end - data; ++i) add(lanes, data + kStripe * i, 8 * i);
        add(lanes, end - kStripe, kLast);
        std::memcpy(sums, &lanes, sizeof lanes);
    }

    TRIPTYCH_INLINE static void add(Lanes& lanes, const char* stripe, int64_t at) {
        const Lanes data = load(stripe), mixed = data ^ key(at);
        lanes += (mixed & 0xffffffff) * (mixed >> 32);
        lanes += __builtin_shufflevector(data, data, 1, 0, 3, 2, 5, 4, 7, 6);
    }

    TRIPTYCH_INLINE static Lanes key(int64_t at) { return load(reinterpret_cast<const char*>(kSecret) + at); }

    TRIPTYCH_INLINE static Lanes load(const void* from) {
        Lanes lanes;
        std::memcpy(&lanes, from, sizeof lanes);
        return lanes;
    }

    static uint64_t secret(int64_t at) {
        uint64_t word;
        std::memcpy(&word, reinterpret_cast<const char*>(kSecret) + at, sizeof word);
        return word;
    }

    static uint64_t folded(uint64_t a, uint64_t b) {
        const auto product = static_cast<unsigned __int128>(a) * b;
        return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
    }
};
