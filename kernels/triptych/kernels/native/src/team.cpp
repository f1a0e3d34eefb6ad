// A team of threads that walks through a program: a list of kernel calls, each cut into pieces.
//
// Threads claim pieces one at a time and go on to the next call when all pieces of the last one are done. So there is
// no place where all threads have to meet: the caller may join late (it prepares the next step meanwhile), and a
// thread that the kernel took the core from holds up one piece, not a share. Waiting spins for a while, then parks.
//
// Every run has a number. All counters of a program carry it, so that a thread that slept through the end of a run
// sees at its next look that it is late, touches nothing and leaves; nobody waits for it.

#include <atomic>
#include <cstdlib>
#include <memory>
#include <system_error>
#include <thread>
#include <vector>

#include "kernel.h"

namespace {

constexpr int kTicketBits = 24;  // of a counter; the rest is the number of the run
constexpr int kSpins = 4000;     // about 100 microseconds
constexpr int64_t kMaxPieces = (int64_t{1} << kTicketBits) - 1;

struct Call {
    void (*run)(const void*, int64_t, char*);
    int64_t (*pieces)(const void*);
    const void* args;
};

struct alignas(64) Progress {
    std::atomic<uint64_t> total{0};     // number of the run, pieces
    std::atomic<uint64_t> next{0};      // number of the run, next piece to claim
    std::atomic<int64_t> open{0};       // pieces not done
    std::atomic<uint64_t> finished{0};  // number of the last run in which all were done
};

struct Program {
    std::vector<Call> calls{Call{}};
    std::unique_ptr<Progress[]> progress = std::make_unique<Progress[]>(1);
};

struct Run {
    Program* program;
    uint64_t number;
};

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Waits until the word is no longer `old`.
template <class Word>
void await_change(std::atomic<Word>& word, Word old) {
    for (int i = 0; i < kSpins; ++i) {
        if (word.load(std::memory_order_acquire) != old) return;
        pause();
    }
    word.wait(old, std::memory_order_acquire);
}

char* scratch() {
    struct Memory {
        char* data = static_cast<char*>(std::aligned_alloc(64, kScratchBytes));
        ~Memory() { std::free(data); }
    };
    static thread_local Memory memory;
    return memory.data;
}

// The next piece of a call, -1 when the run is over.
int64_t claim(Progress& progress, uint64_t number) {
    uint64_t seen = progress.next.load(std::memory_order_relaxed);
    do {
        if (seen >> kTicketBits != number) return -1;
    } while (!progress.next.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel));
    return static_cast<int64_t>(seen & kMaxPieces);
}

void settle(Progress& progress, uint64_t number) {
    progress.finished.store(number, std::memory_order_release);
    progress.finished.notify_all();
}

// Computes pieces of one call until none is left and all are done; false when the run is over.
bool take_part(const Call& call, Progress& progress, uint64_t number) {
    const uint64_t total = progress.total.load(std::memory_order_acquire);
    if (total >> kTicketBits != number) return false;
    const auto pieces = static_cast<int64_t>(total & kMaxPieces);
    for (int64_t looked = progress.next.load(std::memory_order_relaxed) & kMaxPieces; looked < pieces;) {
        const int64_t piece = claim(progress, number);
        if (piece < 0) return false;
        looked = piece + 1;
        if (piece >= pieces) break;
        call.run(call.args, piece, scratch());
        if (progress.open.fetch_sub(1, std::memory_order_acq_rel) == 1) settle(progress, number);
    }
    for (;;) {
        const uint64_t finished = progress.finished.load(std::memory_order_acquire);
        if (finished == number) return true;
        if (finished > number) return false;
        await_change(progress.finished, finished);
    }
}

void walk(const Run& run) {
    const auto& calls = run.program->calls;
    for (size_t i = 0; i < calls.size(); ++i)
        if (!take_part(calls[i], run.program->progress[i], run.number)) return;
}

void alone(const Call* calls, size_t count) {
    for (const Call* call = calls; call != calls + count; ++call) {
        const int64_t pieces = call->pieces(call->args);
        for (int64_t piece = 0; piece < pieces; ++piece) call->run(call->args, piece, scratch());
    }
}

class Team {
  public:
    // Sets the number of threads, the caller of `join` included; fewer where the system gives no more.
    void resize(int64_t threads) {
        while (!take()) busy_.wait(true);
        if (threads_.load() != threads) {
            stopping_.store(true);
            published_.fetch_add(1);
            published_.notify_all();
            for (auto& helper : helpers_) helper.join();
            helpers_.clear();
            stopping_.store(false);
            enlist(threads - 1);
            threads_.store(static_cast<int64_t>(helpers_.size()) + 1);
        }
        give();
    }

    int64_t threads() const { return threads_.load(); }

    // Starts a run; false when the team has another one, or is the caller alone.
    bool launch(Program* program) {
        if (!take()) return false;
        if (helpers_.empty()) {
            give();
            return false;
        }
        start(program);
        return true;
    }

    // Works with the others until the run is done.
    void join() {
        walk(current_);
        give();
    }

    // Runs one call, of which nothing is kept; false as for `launch`.
    bool run_once(const Call& call) {
        if (!take()) return false;
        const bool helped = !helpers_.empty();
        if (helped) {
            // A late helper may still look at the counters of an earlier call, so that their memory stays.
            Program& program = once_[published_.load(std::memory_order_relaxed) % kRuns];
            program.calls.assign(1, call);
            start(&program);
            walk(current_);
        }
        give();
        return helped;
    }

    // Forgets a program; returns once no helper can look at it.
    void forget(const Program* program) {
        for (auto& run : runs_)
            if (run.load() == program) run.store(nullptr);
        while (active_.load()) std::this_thread::yield();
    }

  private:
    static constexpr uint64_t kRuns = 8;

    // Whether the team is the caller's now. Not a mutex: another run of the same thread has to be told no.
    bool take() { return !busy_.exchange(true, std::memory_order_acquire); }

    void give() {
        busy_.store(false, std::memory_order_release);
        busy_.notify_all();
    }

    void enlist(int64_t helpers) {
        const uint64_t seen = published_.load();
        try {
            for (int64_t i = 0; i < helpers; ++i) helpers_.emplace_back([this, seen] { help(seen); });
        } catch (const std::system_error&) {  // no more threads for this process: fewer do
        }
    }

    void start(Program* program) {
        const uint64_t number = published_.load(std::memory_order_relaxed) + 1;
        for (size_t i = 0; i < program->calls.size(); ++i) {
            Progress& progress = program->progress[i];
            const Call& call = program->calls[i];
            const int64_t pieces = call.pieces(call.args);
            progress.open.store(pieces, std::memory_order_relaxed);
            progress.next.store(number << kTicketBits, std::memory_order_relaxed);
            if (pieces == 0) progress.finished.store(number, std::memory_order_relaxed);
            progress.total.store(number << kTicketBits | static_cast<uint64_t>(pieces), std::memory_order_release);
        }
        runs_[number % kRuns].store(program);
        current_ = {program, number};
        published_.store(number, std::memory_order_release);
        published_.notify_all();
    }

    void help(uint64_t seen) {
        for (;;) {
            await_change(published_, seen);
            active_.fetch_add(1);
            seen = published_.load(std::memory_order_acquire);
            if (stopping_.load()) {  // looked at after the number: whoever stops the team publishes one for it
                active_.fetch_sub(1);
                return;
            }
            Program* program = runs_[seen % kRuns].load();
            // A slot is used again eight runs later, which the number would show.
            if (program && published_.load(std::memory_order_acquire) == seen) walk({program, seen});
            active_.fetch_sub(1, std::memory_order_release);
        }
    }

    std::atomic<bool> busy_{false};
    std::atomic<int64_t> threads_{1};
    std::vector<std::thread> helpers_;
    std::atomic<bool> stopping_{false};
    std::atomic<uint64_t> published_{0};
    std::atomic<int64_t> active_{0};
    std::atomic<Program*> runs_[kRuns]{};
    Program once_[kRuns];
    Run current_{nullptr, 0};
};

// Never destroyed: threads that park at the end of the process must not be joined by a static destructor.
std::atomic<Team*>& instance() {
    static std::atomic<Team*> team{new Team};
    return team;
}

Team& team() { return *instance().load(); }

}  // namespace

extern "C" void* triptych_program_create(const Call* calls, int64_t count) {
    auto* program = new Program;
    program->calls.assign(calls, calls + count);
    program->progress = std::make_unique<Progress[]>(static_cast<size_t>(count));
    return program;
}

extern "C" void triptych_program_destroy(void* program) {
    team().forget(static_cast<Program*>(program));
    delete static_cast<Program*>(program);
}

// 1 when the team has begun, 0 when `triptych_program_join` will compute everything itself.
extern "C" int64_t triptych_program_launch(void* program) { return team().launch(static_cast<Program*>(program)); }

extern "C" void triptych_program_join(void* program, int64_t launched) {
    if (launched) {
        team().join();
    } else {
        alone(static_cast<Program*>(program)->calls.data(), static_cast<Program*>(program)->calls.size());
    }
}

extern "C" void triptych_run_once(const Call* call) {
    if (!team().run_once(*call)) alone(call, 1);
}

extern "C" void triptych_team_resize(int64_t threads) { team().resize(threads); }

extern "C" int64_t triptych_team_threads() { return team().threads(); }

// In a forked child: the threads of the parent's team are not here, and what it was doing will never end.
extern "C" void triptych_team_forked() { instance().store(new Team); }
