// Sorts the choices of all tokens by expert, and puts experts first that are there.

#include "experts_plan.h"

#include <algorithm>
#include <numeric>

#include "arrivals.h"

namespace {

struct PlanArgs {
    const int32_t* ids;  // [tokens, top_k]
    void* plan;
    const int32_t* flags;  // [experts] arrivals.h, or null
    const int32_t* window;  // [2] experts of other waves are left out; null where there are none
    int64_t tokens, top_k, experts;
};

constexpr int64_t kExpertsOfScratch = kScratchBytes / sizeof(int32_t);

int64_t pieces(const PlanArgs&) { return 1; }

void run(const PlanArgs& args, int64_t, char* scratch) {
    const int64_t choices = args.tokens * args.top_k;
    auto* next = reinterpret_cast<int32_t*>(scratch);  // [experts], how many entries, then where the next one goes
    const auto expert = [&](int64_t i) { return clamp(args.ids[i], 0, std::min(args.experts, kExpertsOfScratch) - 1); };
    const int64_t begin = args.window ? args.window[0] : 0, end = args.window ? args.window[1] : args.experts;
    std::fill_n(next, args.experts, 0);
    for (int64_t i = 0; i < choices; ++i) ++next[expert(i)];
    std::fill_n(next, begin, 0);
    std::fill_n(next + end, args.experts - end, 0);
    Plan plan(args.plan, args.experts);
    int32_t active = 0, first = 0;
    for (int64_t e = 0; e < args.experts; ++e) {
        if (next[e] == 0) continue;
        plan.numbers()[active] = static_cast<int32_t>(e);
        plan.starts()[active++] = first;
        first += next[e];
        next[e] = first - next[e];
    }
    plan.starts()[active] = first;
    plan.active() = active;
    for (int64_t i = 0; i < choices; ++i)
        if (const int64_t e = expert(i); begin <= e && e < end) plan.entries()[next[e]++] = static_cast<int32_t>(i);
    std::iota(plan.order(), plan.order() + active, 0);
    if (args.flags)
        std::stable_partition(plan.order(), plan.order() + active, [&](int32_t i) {
            return flags_of(args.flags + plan.numbers()[i]) & kGateUpThere;
        });
}

}  // namespace

TRIPTYCH_KERNEL(experts_plan, PlanArgs, pieces, run)
