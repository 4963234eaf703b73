// Attention over the caches of several sequences: how it is cut into tasks for the threads.
#include <algorithm>

#include "isa.h"
#include "operations.h"
#include "scratch.h"
#include "threads.h"

namespace edgereason {
namespace {

thread_local Scratch partials_scratch;  // of a caller, written by all threads of its job
thread_local Scratch task_scratch;      // of one thread within a task

constexpr int64_t kTasksPerThread = 8;  // none waits long for the last, and who loses its core takes fewer

// Neighbouring rows of one sequence, which see the keys at first <= position < last.
struct Tile {
  const Attention* job;
  int64_t begin, end, first, last;

  int64_t queries() const { return (end - begin) * (job->heads / job->kv_heads); }  // of each KV head
  int64_t work() const { return job->kv_heads * queries() * (last - first); }
};

// As many rows as may share keys and values. The last rows see the most keys and come first, so that no long task is
// left over at the end.
std::vector<Tile> tiles_of(const std::vector<Attention>& sequences) {
  std::vector<Tile> tiles;
  for (const Attention& job : sequences) {
    const int64_t rows = std::max<int64_t>(1, kTaskQueries / (job.heads / job.kv_heads));
    for (int64_t end = job.rows; end > 0; end -= rows) {
      const int64_t begin = std::max<int64_t>(0, end - rows), seen = job.position + begin + 1;
      const int64_t first = job.window > 0 && seen > job.window ? (seen - job.window) / kPage * kPage : 0;
      tiles.push_back({&job, begin, end, first, job.position + end});
    }
  }
  return tiles;
}

// Tiles cut into tasks: each KV head, and where there are few tiles, such as those of decoded tokens, ranges of keys
// too (Flash-Decoding: Dao, Haziza, Massa and Sizov, 2023).
struct Plan {
  struct Task {
    const Attention* job;
    AttentionTask task;
    int64_t partial;  // where its partial results go, in floats; negative where it writes y
  };
  struct Cut {  // one KV head of a tile: its ranges' partial results follow each other
    const Tile* tile;
    int64_t kv_head, ranges, partial;
  };
  std::vector<Tile> tiles;
  std::vector<Task> tasks;
  std::vector<Cut> cuts;
  int64_t partials = 0;  // floats

  explicit Plan(const std::vector<Attention>& sequences) : tiles(tiles_of(sequences)) {
    int64_t work = 0;
    for (const Tile& tile : tiles) work += tile.work();
    const int64_t share = work / (kTasksPerThread * thread_count());
    for (const Tile& tile : tiles)
      for (int64_t head = 0; head < tile.job->kv_heads; head++)
        add(tile, head, tile.work() / tile.job->kv_heads > share);
  }

  void add(const Tile& tile, int64_t kv_head, bool cut) {
    const int64_t first_range = tile.first / kRange, ranges = cut ? (tile.last - 1) / kRange - first_range + 1 : 1;
    if (ranges == 1) return tasks.push_back({tile.job, {kv_head, tile.begin, tile.end, tile.first, tile.last}, -1});
    cuts.push_back({&tile, kv_head, ranges, partials});
    for (int64_t range = first_range; range < first_range + ranges; range++) {
      const int64_t first = std::max(tile.first, range * kRange), last = std::min(tile.last, (range + 1) * kRange);
      tasks.push_back({tile.job, {kv_head, tile.begin, tile.end, first, last}, partials});
      partials += tile.queries() * (2 + tile.job->dim);
    }
  }
};

void append(const std::vector<Attention>& sequences, const float* k, int64_t k_stride, const float* v,
            int64_t v_stride) {
  for (const Attention& job : sequences) {
    parallel(job.rows, grain_for(job.kv_heads * job.dim),
             [&](int64_t begin, int64_t end) { kernels().append(job, k, v, k_stride, v_stride, begin, end); });
    k += job.rows * k_stride;
    v += job.rows * v_stride;
  }
}

void combine(const Plan::Cut& cut, const float* partials) {
  const Attention& job = *cut.tile->job;
  const int64_t group = job.heads / job.kv_heads, size = job.dim + 2, queries = cut.tile->queries();
  for (int64_t i = 0; i < queries; i++) {
    const int64_t row = cut.tile->begin + i / group, head = cut.kv_head * group + i % group;
    kernels().combine(partials + cut.partial + i * size, cut.ranges, queries * size, job.dim,
                      job.y + (row * job.heads + head) * job.dim);
  }
}

}  // namespace

void attention(const std::vector<Attention>& sequences, const float* k, int64_t k_stride, const float* v,
               int64_t v_stride) {
  append(sequences, k, k_stride, v, v_stride);
  const Plan plan(sequences);
  if (plan.tasks.empty()) return;
  auto* partials = reinterpret_cast<float*>(partials_scratch.reserve(sizeof(float) * size_t(plan.partials)));
  const auto run = [&](int64_t begin, int64_t end) {
    const int64_t dim = sequences[0].dim, scratch = kMaxTile * kPage + 2 * kTaskQueries * (2 + dim) + 2 * kPage * dim;
    auto* own = reinterpret_cast<float*>(task_scratch.reserve(sizeof(float) * size_t(scratch)));
    for (const Plan::Task* t = &plan.tasks[size_t(begin)]; begin < end; begin++, t++) {
      AttentionTask task = t->task;
      task.partial = t->partial < 0 ? nullptr : partials + t->partial;
      kernels().attention(*t->job, task, own);
    }
  };
  int64_t work = 0;
  for (const Tile& tile : plan.tiles) work += tile.work() * tile.job->dim;
  if (work < 4 * kSmall)  // a microsecond or two
    run(0, int64_t(plan.tasks.size()));
  else
    parallel_each(int64_t(plan.tasks.size()), run);
  const auto cuts = int64_t(plan.cuts.size());
  if (cuts == 0) return;
  const int64_t merged = plan.partials / cuts;
  parallel(cuts, grain_for(merged), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) combine(plan.cuts[size_t(i)], partials);
  });
}

}  // namespace edgereason
