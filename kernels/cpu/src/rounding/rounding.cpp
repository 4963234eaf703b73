#include "rounding.h"

#include <atomic>

#include "isa.h"
#include "scratch.h"
#include "threads.h"

namespace edgereason {
namespace {

thread_local Scratch scratch;

}  // namespace

bool round_weight(Rounding job) {
  const Kernels& isa = kernels();
  job.to_float = isa.to_float;
  std::atomic<bool> finite{true};
  parallel((job.rows + kPanel - 1) / kPanel, 1, [&](int64_t begin, int64_t end) {
    const size_t floats = size_t(kRoundingScratch * job.group);
    auto* room = reinterpret_cast<float*>(scratch.reserve(sizeof(float) * floats));
    if (!isa.round(job, begin, end, room)) finite.store(false, std::memory_order_relaxed);
  });
  return finite.load();
}

}  // namespace edgereason
