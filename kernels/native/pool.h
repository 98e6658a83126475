// Threads that run one function together and wait for each other inside it.
#pragma once

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>

#if defined(__x86_64__) || defined(__i386__)
#define RELAX() __builtin_ia32_pause()
#else
#define RELAX() std::this_thread::yield()
#endif

// Some 20 us: longer than most waits of a step that runs undisturbed. Then the core is given to
// whoever wants it, so that more threads than cores are slow, not stuck.
constexpr int kSpins = 1000;

class Pool;

// What the members of a run share.
struct Team {
  // A loop's counter is cleared by the loop half a ring before it. Members are never that far
  // apart: there is a wait in every few loops.
  static constexpr int kNumCounters = 64;
  struct alignas(64) Counter {
    std::atomic<long> value{0};
  };

  explicit Team(int size) : size(size) {}

  const int size;
  int start = 0;
  alignas(64) std::atomic<uint32_t> turn{0};
  alignas(64) std::atomic<int> arrived{0};
  Counter counters[kNumCounters];
};

// One of a run's threads; number 0 is the caller's.
class Member {
 public:
  Member(Team& team, int index) : index(index), size(team.size), at(team.start), team_(team) {}

  const int index, size;
  int at;  // loops shared so far, equal for all members

  // Returns once all members have come here.
  void wait() {
    if (size == 1) return;
    const uint32_t turn = team_.turn.load(std::memory_order_relaxed);
    if (team_.arrived.fetch_add(1, std::memory_order_acq_rel) == size - 1) {
      team_.arrived.store(0, std::memory_order_relaxed);
      team_.turn.store(turn + 1, std::memory_order_release);
      return;
    }
    for (int spin = 0; team_.turn.load(std::memory_order_acquire) == turn; ++spin) {
      if (spin < kSpins) RELAX();
      else std::this_thread::yield();
    }
  }

  // Runs the tasks 0 to n - 1 once each, on whichever member is free. Waits for nobody.
  template <class F>
  void share(long n, F&& task) {
    if (size == 1) {
      for (long i = 0; i < n; ++i) task(i);
      return;
    }
    const int loop = at++ % Team::kNumCounters;
    std::atomic<long>& next = team_.counters[loop].value;
    for (;;) {
      const long i = next.fetch_add(1, std::memory_order_relaxed);
      if (i == 0) {
        const int ahead = (loop + Team::kNumCounters / 2) % Team::kNumCounters;
        team_.counters[ahead].value.store(0, std::memory_order_relaxed);
      }
      if (i >= n) return;
      task(i);
    }
  }

 private:
  Team& team_;
};

using Work = std::function<void(Member&)>;

// The process's pool. Runs of several callers follow each other.
class Pool {
 public:
  static void run(int num_threads, const Work& work) {
    static std::mutex turn;
    std::lock_guard<std::mutex> lock(turn);
    static Pool* pool = nullptr;
    // Threads do not survive a fork. Pools are never destroyed: sleeping threads may refer to them.
    if (pool == nullptr || pool->pid_ != getpid() || pool->team_.size != num_threads) {
      if (pool != nullptr && pool->pid_ == getpid()) pool->run(nullptr);
      pool = new Pool(num_threads);
    }
    pool->run(work);
  }

 private:
  explicit Pool(int num_threads) : team_(num_threads), pid_(getpid()) {
    for (int index = 1; index < num_threads; ++index)
      std::thread([this, index] { serve(index); }).detach();
  }

  // Without work the threads end.
  void run(const Work& work) {
    if (team_.size > 1) {
      work_ = &work;
      {
        std::lock_guard<std::mutex> lock(mutex_);
        epoch_.fetch_add(1, std::memory_order_release);
      }
      started_.notify_all();
    }
    Member caller(team_, 0);
    if (work) work(caller);
    caller.wait();
    team_.start = caller.at % Team::kNumCounters;
  }

  void serve(int index) {
    uint64_t seen = 0;
    for (bool goes_on = true; goes_on; ++seen) {
      const auto is_asked = [&] { return epoch_.load(std::memory_order_acquire) != seen; };
      for (int spin = 0; spin < kSpins && !is_asked(); ++spin) RELAX();
      if (!is_asked()) {
        std::unique_lock<std::mutex> lock(mutex_);
        started_.wait(lock, is_asked);
      }
      Member member(team_, index);
      goes_on = static_cast<bool>(*work_);
      if (goes_on) (*work_)(member);
      member.wait();
    }
  }

  Team team_;
  const pid_t pid_;
  const Work* work_ = nullptr;
  std::atomic<uint64_t> epoch_{0};
  std::mutex mutex_;
  std::condition_variable started_;
};
