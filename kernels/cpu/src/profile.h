// Where the time goes: calls, seconds, bytes and operations of each kind of operation. Off by default, and then the
// cost of a call is one load.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

namespace edgereason {

// One row is bound by reading, many by arithmetic: they are counted apart.
enum class Operation {
  linear_1,
  linear_few,
  linear_many,
  attention_1,
  attention_many,
  embedding,
  norm,
  rope,
  gate,
  cap
};
constexpr int kOperations = 10;

struct Counter {
  const char* name;
  int64_t calls;
  double seconds;
  double bytes;       // of weights, or of keys and values, or in and out: what has to pass through memory
  double operations;  // multiplications and additions
};

bool profiling();
void set_profiling(bool on);     // on: from zero
std::vector<Counter> profile();  // of the operations that were called
void record(Operation operation, double seconds, double bytes, double operations);

// Counts the time from here to the end of the scope.
class Profiled {
 public:
  Profiled(Operation operation, int64_t bytes, int64_t operations = 0)
      : on_(profiling()), operation_(operation), bytes_(bytes), operations_(operations) {
    if (on_) start_ = std::chrono::steady_clock::now();
  }
  Profiled(const Profiled&) = delete;
  ~Profiled() {
    if (!on_) return;
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start_;
    record(operation_, seconds.count(), double(bytes_), double(operations_));
  }

 private:
  const bool on_;
  const Operation operation_;
  const int64_t bytes_, operations_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace edgereason
