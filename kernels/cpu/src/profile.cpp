#include "profile.h"

#include <atomic>
#include <mutex>

namespace edgereason {
namespace {

constexpr const char* kNames[kOperations] = {"linear, 1 row",
                                             "linear, 2 to 32 rows",
                                             "linear, more rows",
                                             "attention, 1 row each",
                                             "attention, more rows",
                                             "embedding",
                                             "norm",
                                             "rope",
                                             "swiglu, geglu",
                                             "softcap"};

std::atomic<bool> on{false};
std::mutex turn;
Counter counters[kOperations];

}  // namespace

bool profiling() {
  return on.load(std::memory_order_relaxed);
}

void set_profiling(bool wanted) {
  std::lock_guard lock(turn);
  if (wanted && !on)
    for (Counter& counter : counters) counter = {};
  on = wanted;
}

std::vector<Counter> profile() {
  std::lock_guard lock(turn);
  std::vector<Counter> called;
  for (int i = 0; i < kOperations; i++) {
    if (counters[i].calls == 0) continue;
    called.push_back(counters[i]);
    called.back().name = kNames[i];
  }
  return called;
}

void record(Operation operation, double seconds, double bytes, double operations) {
  std::lock_guard lock(turn);
  Counter& counter = counters[int(operation)];
  counter.calls++;
  counter.seconds += seconds;
  counter.bytes += bytes;
  counter.operations += operations;
}

}  // namespace edgereason
