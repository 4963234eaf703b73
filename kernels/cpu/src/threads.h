// One pool of threads for the process. Work is a range of tasks that the threads, and the caller with them, take in
// chunks from a counter: whoever is delayed by another process takes fewer.
#pragma once

#include <algorithm>
#include <cstdint>

namespace edgereason {

using RangeFunction = void (*)(void* context, int64_t begin, int64_t end);

// Calls function(context, begin, end) over chunks of 0 .. count, none smaller than `grain` except the last, and returns
// when all are done. Calls from several threads take turns. `function` must not throw and must not call this again.
// There are at most `most` chunks; with 0 a few per thread.
void parallel_ranges(int64_t count, int64_t grain, int64_t most, RangeFunction function, void* context);

template <class F>
void parallel(int64_t count, int64_t grain, const F& f) {
  parallel_ranges(
      count, grain, 0, [](void* context, int64_t begin, int64_t end) { (*static_cast<const F*>(context))(begin, end); },
      const_cast<F*>(&f));
}

// The same for tasks of which each is worth handing over.
template <class F>
void parallel_each(int64_t count, const F& f) {
  parallel_ranges(
      count, 1, count, [](void* context, int64_t begin, int64_t end) { (*static_cast<const F*>(context))(begin, end); },
      const_cast<F*>(&f));
}

// Work below this many floats is done by the caller alone: handing it over would take longer.
constexpr int64_t kSmall = 65536;

// How many items of `width` floats are worth handing over.
inline int64_t grain_for(int64_t width) {
  return std::max<int64_t>(1, kSmall / std::max<int64_t>(1, width));
}

// The threads that compute, the caller included. Default: the cores that the process may run on.
int thread_count();
void set_thread_count(int count);  // at least 1

}  // namespace edgereason
