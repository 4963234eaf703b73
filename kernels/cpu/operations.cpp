#include "operations.h"

#include <algorithm>
#include <cstdlib>
#include <new>

#include "isa.h"
#include "threads.h"

namespace edgereason {
namespace {

// Work below this many floats is done by the caller alone: handing it over would take longer.
constexpr int64_t kSmall = 16384;

// A thread's own memory, kept between calls and aligned for any vector load.
class Scratch {
 public:
  ~Scratch() { release(); }

  uint8_t* reserve(size_t bytes) {
    if (bytes > size_) {
      release();
      data_ = static_cast<uint8_t*>(::operator new(bytes, std::align_val_t(64)));
      size_ = bytes;
    }
    return data_;
  }

 private:
  void release() {
    if (data_) ::operator delete(data_, std::align_val_t(64));
    data_ = nullptr;
    size_ = 0;
  }

  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

thread_local Scratch call_scratch;   // of a caller, read by all threads of its job
thread_local Scratch chunk_scratch;  // of one thread within its chunk

int64_t grain_for(int64_t width) {
  return std::max<int64_t>(1, kSmall / std::max<int64_t>(1, width));
}

float scale_of(const PackedWeight& w, int64_t index) {
  float scale;
  kernels().to_float(w.scales + index, Type::f16, 1, &scale);
  return scale;
}

void dequantize_row(const PackedWeight& w, int64_t row, float* y) {
  const int64_t panel = row / kPanel, r = row % kPanel, group_blocks = w.blocks / w.groups;
  const int64_t block_bytes = kPanel * kBlock * w.bits / 8;
  for (int64_t g = 0; g < w.groups; g++) {
    const int64_t index = (panel * w.groups + g) * kPanel + r;
    const float scale = scale_of(w, index);
    const int zero = w.zeros ? w.zeros[index] : w.bits == 4 ? 8 : 128;
    const int64_t first = g * group_blocks * kBlock, last = std::min(first + group_blocks * kBlock, w.columns);
    for (int64_t k = first; k < last; k++) {
      const uint8_t* block = w.qweight + (panel * w.blocks + k / kBlock) * block_bytes + 4 * r + k % 4;
      const int64_t i = k % kBlock;
      const int q = w.bits == 8 ? block[i / 4 * 64] : block[i / 8 * 64] >> (i % 8 < 4 ? 0 : 4) & 15;
      y[k] = scale * float(q - zero);
    }
  }
}

}  // namespace

void linear(const PackedWeight& w, const float* x, int64_t m, const float* add, int64_t add_stride, float* y) {
  if (m == 0) return;
  const Kernels& isa = kernels();
  const int zero = w.bits == 4 ? 8 : 128 - isa.byte_origin;
  const int32_t factor = w.zeros ? -1 : -zero;
  uint8_t* tiles = call_scratch.reserve(size_t(m * w.blocks * kTileRowBytes));
  const int64_t tile_rows = isa.tile_rows, tile_count = (m + tile_rows - 1) / tile_rows;
  parallel(tile_count, grain_for(w.columns * tile_rows), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin * tile_rows; row < std::min(m, end * tile_rows); row += tile_rows)
      isa.quantize(x + row * w.columns, int(std::min(tile_rows, m - row)), w.columns, w.blocks, factor,
                   tiles + row * w.blocks * kTileRowBytes);
  });
  const PackedProduct job{w, tiles, m, add, add_stride, y};
  const int64_t panel_work = w.blocks * kPanel * kBlock * m;
  parallel(w.panels, std::max<int64_t>(1, 2 * kSmall / panel_work), [&](int64_t begin, int64_t end) {
    uint8_t* scratch = chunk_scratch.reserve(size_t(w.blocks) * 2 * kPanel * kBlock);
    isa.packed(job, begin, end, scratch);
  });
}

void linear(const DenseWeight& w, const float* x, int64_t m, const float* add, int64_t add_stride, float* y) {
  if (m == 0) return;
  const Kernels& isa = kernels();
  const DenseProduct job{w, x, m, add, add_stride, y};
  const int64_t groups = (w.rows + 3) / 4;  // the kernels take four output rows at a time
  parallel(groups, grain_for(4 * w.columns * m),
           [&](int64_t begin, int64_t end) { isa.dense(job, 4 * begin, std::min(4 * end, w.rows)); });
}

void embedding(const PackedWeight& w, const int64_t* ids, int64_t count, float* y) {
  parallel(count, grain_for(4 * w.columns), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) dequantize_row(w, ids[i], y + i * w.columns);
  });
}

void embedding(const DenseWeight& w, const int64_t* ids, int64_t count, float* y) {
  const int64_t row_bytes = w.columns * (w.type == Type::f32 ? 4 : 2);
  for (int64_t i = 0; i < count; i++)
    kernels().to_float(static_cast<const uint8_t*>(w.data) + ids[i] * row_bytes, w.type, w.columns, y + i * w.columns);
}

void rms_norm(const float* x, const float* weight, float eps, int64_t rows, int64_t width, float* y) {
  const Kernels& isa = kernels();
  parallel(rows, grain_for(width), [&](int64_t begin, int64_t end) {
    isa.rms_norm(x + begin * width, weight, eps, end - begin, width, y + begin * width);
  });
}

void rope(float* x, int64_t x_stride, const float* cos, const float* sin, int64_t rows, int64_t heads, int64_t dim) {
  const Kernels& isa = kernels();
  parallel(rows, grain_for(heads * dim), [&](int64_t begin, int64_t end) {
    const int64_t angle = begin * (dim / 2);
    isa.rope(x + begin * x_stride, x_stride, cos + angle, sin + angle, end - begin, heads, dim);
  });
}

void swiglu(const float* gate_up, int64_t rows, int64_t width, float* y) {
  const Kernels& isa = kernels();
  parallel(rows, grain_for(4 * width), [&](int64_t begin, int64_t end) {
    isa.swiglu(gate_up + 2 * begin * width, end - begin, width, y + begin * width);
  });
}

void attention(const Attention& job, const float* k, int64_t k_stride, const float* v, int64_t v_stride) {
  if (job.rows == 0) return;
  const Kernels& isa = kernels();
  parallel(job.rows, grain_for(job.kv_heads * job.dim),
           [&](int64_t begin, int64_t end) { isa.append(job, k, v, k_stride, v_stride, begin, end); });
  // A task is one KV head and some rows: about kTaskQueries queries that share its keys and values.
  const int64_t group = job.heads / job.kv_heads, task_rows = std::max<int64_t>(1, kTaskQueries / group);
  const int64_t tiles = (job.rows + task_rows - 1) / task_rows;
  const int64_t work = task_rows * group * (job.position + job.rows) * job.dim;
  parallel(job.kv_heads * tiles, grain_for(work), [&](int64_t begin, int64_t end) {
    auto* scratch = reinterpret_cast<float*>(chunk_scratch.reserve(sizeof(float) * kAttentionScratch));
    for (int64_t task = begin; task < end; task++) {
      const int64_t first = task % tiles * task_rows;
      isa.attention(job, task / tiles, first, std::min(first + task_rows, job.rows), scratch);
    }
  });
}

}  // namespace edgereason
