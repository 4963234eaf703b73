// One pool of threads for the process. Work is a range of tasks that the threads, and the caller with them, take in
// chunks from a counter: whoever is delayed by another process takes fewer.
#pragma once

#include <cstdint>

namespace edgereason {

using RangeFunction = void (*)(void* context, int64_t begin, int64_t end);

// Calls function(context, begin, end) over chunks of 0 .. count, none smaller than `grain` except the last, and returns
// when all are done. Calls from several threads take turns. `function` must not throw and must not call this again.
void parallel_ranges(int64_t count, int64_t grain, RangeFunction function, void* context);

template <class F>
void parallel(int64_t count, int64_t grain, F&& f) {
  parallel_ranges(
      count, grain, [](void* context, int64_t begin, int64_t end) { (*static_cast<F*>(context))(begin, end); }, &f);
}

// The threads that compute, the caller included. Default: the cores that the process may run on.
int thread_count();
void set_thread_count(int count);  // at least 1

}  // namespace edgereason
