// What this machine can do at most: read memory, and multiply what is in registers.

#include "kernel.h"
#include "simd.h"

namespace {

constexpr int64_t kReadBytes = 256 << 10;  // of a piece
constexpr int64_t kAhead = 4096;           // bytes, of the prefetch
constexpr int kChains = 12;                // sums in registers, enough to hide the latency of two units

struct ReadArgs {
    const char* data;
    uint64_t* sums;  // [pieces], so that the reading has a result
    int64_t bytes;   // a multiple of 1024
};

int64_t read_pieces(const ReadArgs& args) { return (args.bytes + kReadBytes - 1) / kReadBytes; }

void run_read(const ReadArgs& args, int64_t piece, char*) {
    const Range range = share(args.bytes, 1024, piece, read_pieces(args));
    u32x16 sums[4] = {};
    for (int64_t at = range.first; at < range.last; at += 256)
        for (int i = 0; i < 4; ++i) {
            const char* line = args.data + at + 64 * i;
            __builtin_prefetch(line + kAhead);
            sums[i] ^= load<u32x16>(line);
        }
    const u32x16 all = sums[0] ^ sums[1] ^ sums[2] ^ sums[3];
    args.sums[piece] = all[0] ^ all[5] ^ all[10] ^ all[15];
}

struct DotArgs {
    const char* operands;  // 128 bytes
    float* sums;           // [pieces]
    int64_t pieces, steps, kind;  // 0 float32, 1 bfloat16, 2 8-bit integers
};

int64_t dot_pieces(const DotArgs& args) { return args.pieces; }

f32x16 add_product(f32x16 sums, f32x16 a, f32x16 b) { return fma(a, b, sums); }

template <class Sum, class Operand, class Other, class Product>
Sum chains(const DotArgs& args, Product product) {
    const Operand a = load<Operand>(args.operands);
    const Other b = load<Other>(args.operands + 64);
    Sum sums[kChains] = {}, all{};
    for (int i = 0; i < kChains; ++i) sums[i][0] = i;  // all different, or the compiler would keep one
    for (int64_t step = 0; step < args.steps; ++step)
#pragma GCC unroll 16
        for (int i = 0; i < kChains; ++i) sums[i] = product(sums[i], a, b);
    for (int i = 0; i < kChains; ++i) all += sums[i];
    return all;
}

void run_dot(const DotArgs& args, int64_t piece, char*) {
    float result = 0;
    switch (args.kind) {
        case 0: result = chains<f32x16, f32x16, f32x16>(args, add_product)[0]; break;
        case 1: result = chains<f32x16, u16x32, u16x32>(args, dot_bf16)[0]; break;
        case 2: result = static_cast<float>(chains<i32x16, u8x64, i8x64>(args, dot_u8i8)[0]); break;
    }
    args.sums[piece] = result;
}

}  // namespace

TRIPTYCH_KERNEL(read_probe, ReadArgs, read_pieces, run_read)
TRIPTYCH_KERNEL(dot_probe, DotArgs, dot_pieces, run_dot)
