// Threads that read experts into their slots: what a step waits for before what one may wait for.

#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "residency_read.h"

class Readers {
  public:
    // Without threads nothing is read but by `wait_for_one`.
    Readers(int64_t file, int64_t rounded, int64_t threads)
        : files_(file, rounded), most_ahead_(std::max<int64_t>(threads - 1, 1)) {
        try {
            for (int64_t i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
        } catch (const std::system_error&) {  // no more threads for this process: fewer do
        }
    }

    ~Readers() { stop(); }

    // Nothing more is read but what a thread has begun.
    void stop() {
        {
            const std::lock_guard lock(mutex_);
            stopping_ = true;
        }
        work_.notify_all();
        for (auto& thread : threads_) thread.join();
        threads_.clear();
    }

    void demand(const std::vector<Read>& reads) { add(demanded_, reads); }
    void speculate(const std::vector<Read>& reads) { add(speculative_, reads); }

    // Takes back what is queued in advance and `chosen`, in its order.
    template <class Chosen>
    std::vector<Read> withdraw(Chosen&& chosen) {
        std::vector<Read> found;
        const std::lock_guard lock(mutex_);
        if (std::none_of(speculative_.begin(), speculative_.end(), chosen)) return found;
        std::deque<Read> left;
        for (const Read& read : speculative_) chosen(read) ? found.push_back(read) : left.push_back(read);
        speculative_.swap(left);
        return found;
    }

    // Takes back all that is queued.
    std::vector<Read> withdraw_all() {
        const std::lock_guard lock(mutex_);
        std::vector<Read> found(demanded_.begin(), demanded_.end());
        found.insert(found.end(), speculative_.begin(), speculative_.end());
        demanded_.clear();
        speculative_.clear();
        return found;
    }

    // Until a read is done that was not done before; false when none is queued or under way.
    bool wait_for_one() {
        std::unique_lock lock(mutex_);
        if (threads_.empty()) return read_next(lock);
        if (demanded_.empty() && speculative_.empty() && !active_) return false;
        const int64_t before = finished_;
        done_.wait(lock, [&] { return finished_ != before; });
        return true;
    }

    // Whether whoever waits has to read.
    bool none() const { return threads_.empty(); }

    const Files& files() const { return files_; }

  private:
    // Wakes no more than there is work for: on few cores a thread that finds none costs a step as much as one that reads.
    void add(std::deque<Read>& queue, const std::vector<Read>& reads) {
        if (reads.empty()) return;
        std::unique_lock lock(mutex_);
        queue.insert(queue.end(), reads.begin(), reads.end());
        const auto wake = std::min(idle_, static_cast<int64_t>(reads.size()));
        lock.unlock();
        for (int64_t i = 0; i < wake; ++i) work_.notify_one();
    }

    void work() {
        std::unique_lock lock(mutex_);
        while (!stopping_) {
            if (read_next(lock)) continue;
            ++idle_;
            work_.wait(lock);
            --idle_;
        }
    }

    bool read_next(std::unique_lock<std::mutex>& lock) {
        const bool ahead = demanded_.empty();
        auto& queue = ahead ? speculative_ : demanded_;
        if (queue.empty() || (ahead && ahead_ == most_ahead_)) return false;
        const Read read = queue.front();
        queue.pop_front();
        ++active_;
        ahead_ += ahead;
        lock.unlock();
        thread_local Scratch scratch;
        files_.bring(read, read.expansion ? scratch.of(read.bytes()) : read.to);
        lock.lock();
        --active_;
        ahead_ -= ahead;
        ++finished_;
        done_.notify_all();
        return true;
    }

    Files files_;
    const int64_t most_ahead_;  // reads in advance at a time: one thread is left for what a step waits for
    std::mutex mutex_;
    std::condition_variable work_, done_;
    std::deque<Read> demanded_, speculative_;
    int64_t active_ = 0, ahead_ = 0, finished_ = 0, idle_ = 0;
    bool stopping_ = false;
    std::vector<std::thread> threads_;
};
