// Functions of a source that is compiled for any machine, which are worth a choice when it is loaded.

#pragma once

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__clang__)
#define TRIPTYCH_WIDE __attribute__((target_clones("avx2", "default")))
#elif defined(__x86_64__) && defined(__GLIBC__)
#define TRIPTYCH_WIDE __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define TRIPTYCH_WIDE
#endif
