#include "threads.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#ifdef __linux__
#include <sched.h>
#endif
#ifndef _WIN32
#include <pthread.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace edgereason {
namespace {

// How long an idle thread watches for work before it sleeps. The gap between two operations of one token is a few
// microseconds, the gap between two tokens (sampling, decoding text, proposing tokens) about a hundred, of which some
// take longer; waking a sleeper costs about fifty.
constexpr auto kSpin = std::chrono::microseconds(400);

void pause() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

// A thread whose core another process wants, too, is interrupted whenever the system likes, which is mostly within a
// chunk, and then all others wait until it runs again: milliseconds, for a job of microseconds. One that gives its core
// away between two chunks, earlier than the system would take it, keeps nobody waiting: the others take its chunks.
// Where nobody else wants the core, giving it away costs a fraction of a microsecond.
class Courtesy {
 public:
  void between_chunks() {
    const auto now = std::chrono::steady_clock::now();
    if (now - since_ < kTurn) return;
    std::this_thread::yield();
    since_ = std::chrono::steady_clock::now();
  }

 private:
  static constexpr auto kTurn = std::chrono::microseconds(1000);  // schedulers' shortest turns are of 1 to 4 ms

  std::chrono::steady_clock::time_point since_;
};

// A job is published as one word, `ticket`: number of the job (32 bits), its chunks (16), the next chunk (16). A thread
// owns a chunk once it has moved the word on; until that chunk is done, the job and its description stay as they are,
// so they are read after taking the chunk and never torn. Late threads find no chunk left and touch nothing.
class Pool {
 public:
  explicit Pool(int threads) {
    for (int i = 1; i < threads; i++) workers_.emplace_back([this] { work(); });
  }

  ~Pool() {
    {
      std::lock_guard lock(mutex_);
      stop_.store(true);
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  int threads() const { return int(workers_.size()) + 1; }

  void run(int64_t count, int64_t chunk, RangeFunction function, void* context) {
    const uint64_t chunks = uint64_t((count + chunk - 1) / chunk);
    function_.store(function, std::memory_order_relaxed);
    context_.store(context, std::memory_order_relaxed);
    count_.store(count, std::memory_order_relaxed);
    chunk_.store(chunk, std::memory_order_relaxed);
    done_.store(0, std::memory_order_relaxed);
    ticket_.store(uint64_t(++job_) << 32 | chunks << 16, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) {
      std::lock_guard lock(mutex_);
      wake_.notify_all();
    }
    while (take_chunk()) {
    }
    for (int spins = 0; done_.load(std::memory_order_acquire) != chunks; spins++)
      spins < 4000 ? pause() : std::this_thread::yield();
  }

 private:
  static bool has_work(uint64_t ticket) { return (ticket & 0xffff) < (ticket >> 16 & 0xffff); }

  bool take_chunk() {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    do {
      if (!has_work(ticket)) return false;
    } while (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel, std::memory_order_acquire));
    const int64_t chunk = chunk_.load(std::memory_order_relaxed), begin = int64_t(ticket & 0xffff) * chunk;
    const int64_t end = std::min(begin + chunk, count_.load(std::memory_order_relaxed));
    function_.load(std::memory_order_relaxed)(context_.load(std::memory_order_relaxed), begin, end);
    done_.fetch_add(1, std::memory_order_release);
    return true;
  }

  void work() {
    Courtesy courtesy;
    while (!stop_.load(std::memory_order_relaxed)) {
      courtesy.between_chunks();
      if (take_chunk() || wait_spinning()) continue;
      std::unique_lock lock(mutex_);
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      wake_.wait(lock, [this] { return stop_.load() || has_work(ticket_.load(std::memory_order_seq_cst)); });
      sleepers_.fetch_sub(1, std::memory_order_relaxed);
    }
  }

  bool wait_spinning() const {
    const auto deadline = std::chrono::steady_clock::now() + kSpin;
    while (std::chrono::steady_clock::now() < deadline)
      for (int i = 0; i < 32; i++) {
        if (has_work(ticket_.load(std::memory_order_acquire))) return true;
        pause();
      }
    return false;
  }

  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<uint64_t> done_{0};
  alignas(64) std::atomic<RangeFunction> function_{nullptr};
  std::atomic<void*> context_{nullptr};
  std::atomic<int64_t> count_{0}, chunk_{1};
  uint32_t job_ = 0;
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
};

int default_threads() {
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, int(std::thread::hardware_concurrency()));
}

// Kept on the heap for good: at exit, threads may still be running while static objects are being destroyed.
struct State {
  std::mutex turn;  // one job at a time
  Pool* pool = nullptr;
  std::atomic<int> threads{default_threads()};
};

State* state_pointer = nullptr;

// A forked child has none of its parent's threads, and perhaps a lock that one of them held: it starts over.
void start_over() {
  const int threads = state_pointer->threads.load();
  state_pointer = new State;
  state_pointer->threads = threads;
}

State& state() {
  static const bool once = [] {
    state_pointer = new State;
#ifndef _WIN32
    pthread_atfork(nullptr, nullptr, start_over);
#endif
    return true;
  }();
  (void)once;
  return *state_pointer;
}

}  // namespace

void parallel_ranges(int64_t count, int64_t grain, int64_t most, RangeFunction function, void* context) {
  if (count <= 0) return;
  State& s = state();
  if (count <= grain || s.threads == 1) return function(context, 0, count);
  std::lock_guard lock(s.turn);
  if (!s.pool) s.pool = new Pool(s.threads);
  // A few chunks per thread even out delays; more would only cost.
  const int64_t chunks = std::min<int64_t>(most > 0 ? most : 4 * s.pool->threads(), 0xffff);
  const int64_t chunk = std::max(grain, (count + chunks - 1) / chunks);
  s.pool->run(count, chunk, function, context);
}

int thread_count() {
  return state().threads;
}

void set_thread_count(int count) {
  State& s = state();
  std::lock_guard lock(s.turn);
  if (count == s.threads) return;
  delete s.pool;
  s.pool = nullptr;
  s.threads = count;
}

}  // namespace edgereason
