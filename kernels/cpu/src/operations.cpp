#include "operations.h"

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cstdlib>
#include <new>
#include <string>

#include "isa.h"
#include "scratch.h"
#include "threads.h"

namespace edgereason {
namespace {

thread_local Scratch call_scratch;   // of a caller, read by all threads of its job
thread_local Scratch chunk_scratch;  // of one thread within its chunk
thread_local Scratch adapter_scratch;

float scale_of(const PackedWeight& w, int64_t index) {
  float scale;
  kernels().to_float(w.scales + index, Type::f16, 1, &scale);
  return scale;
}

void dequantize_row(const PackedWeight& w, int64_t row, float* y) {
  assert(0 <= row && row < w.rows);
  const int64_t panel = row / kPanel, r = row % kPanel, group_blocks = w.blocks / w.groups;
  const int64_t block_bytes = kPanel * kBlock * w.bits / 8;
  for (int64_t g = 0; g < w.groups; g++) {
    const int64_t index = (panel * w.groups + g) * kPanel + r;
    const float scale = scale_of(w, index);
    const int zero = w.zeros ? w.zeros[index] : w.bits == 4 ? 8 : 128;
    const int64_t first = g * group_blocks * kBlock, last = std::min(first + group_blocks * kBlock, w.columns);
    for (int64_t k = first; k < last; k++) {
      const uint8_t* block = w.qweight + (panel * w.blocks + k / kBlock) * block_bytes + 4 * r + k % 4;
      const int64_t i = k % kBlock, column = w.order ? w.order[k] : k;
      const int q = w.bits == 8 ? block[i / 4 * 64] : block[i / 8 * 64] >> (i % 8 < 4 ? 0 : 4) & 15;
      y[column] = scale * float(q - zero);
    }
  }
}

// Rows of x with their inputs in the order in which the weight stores them.
const float* gather(const PackedWeight& w, const float* x, int64_t rows) {
  auto* gathered = reinterpret_cast<float*>(chunk_scratch.reserve(sizeof(float) * size_t(rows * w.columns)));
  for (int64_t r = 0; r < rows; r++)
    for (int64_t k = 0; k < w.columns; k++) gathered[r * w.columns + k] = x[r * w.columns + w.order[k]];
  return gathered;
}

// x times `down` of each run's adapter, [rows, ranks of all parts] one run after the other.
const float* project_down(const AdapterRuns& runs, const float* x, int64_t columns) {
  int64_t size = 0;
  for (const AdapterRun& run : runs) size += (run.end - run.begin) * run.adapter->down.rows;
  auto* h = reinterpret_cast<float*>(adapter_scratch.reserve(sizeof(float) * size_t(size)));
  const Kernels& isa = kernels();
  float* out = h;
  for (const AdapterRun& run : runs) {
    const int64_t count = run.end - run.begin, rows = run.adapter->down.rows;
    const DenseProduct job{run.adapter->down, x + run.begin * columns, count, nullptr, 0, out};
    parallel((rows + 3) / 4, grain_for(4 * columns * count),
             [&](int64_t begin, int64_t end) { isa.dense(job, 4 * begin, std::min(4 * end, rows)); });
    out += count * rows;
  }
  return h;
}

// What the adapters add to panels begin <= p < end of y [, columns].
void update(const AdapterRuns& runs, const float* h, int64_t begin, int64_t end, int64_t columns, float* y) {
  for (const AdapterRun& run : runs) {
    const int64_t count = run.end - run.begin, ranks = run.adapter->down.rows;
    const float* part_h = h;
    for (const Adapter::Part& part : run.adapter->parts) {
      const LowRankUpdate job{part_h,     ranks,     part.up,    part.type, part.rank,
                              part.first, part.last, part.scale, count,     y + run.begin * columns,
                              columns};
      kernels().update(job, begin, end);
      part_h += part.rank;
    }
    h += count * ranks;
  }
}

int64_t spans_of(const PackedWeight& w) {
  return (w.blocks + kSpanBlocks - 1) / kSpanBlocks;
}

// Tiles of rounded activations in `call_scratch`, `tile_rows` rows and `tile_bytes` each:
// f(rows of x in the order of the weight's inputs, their number, the tile).
template <class F>
const uint8_t* quantize_tiles(const PackedWeight& w, const float* x, int64_t m, int64_t tile_rows, int64_t tile_bytes,
                              F&& f) {
  const int64_t tiles = (m + tile_rows - 1) / tile_rows;
  uint8_t* data = call_scratch.reserve(size_t(tiles * tile_bytes));
  parallel(tiles, grain_for(w.columns * tile_rows), [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; tile++) {
      const int64_t row = tile * tile_rows, rows = std::min(tile_rows, m - row);
      const float* from = x + row * w.columns;
      f(w.order ? gather(w, from, rows) : from, int(rows), data + tile * tile_bytes);
    }
  });
  return data;
}

const uint8_t* quantize_few(const Kernels& isa, const PackedWeight& w, const float* x, int64_t m) {
  const int zero = w.bits == 4 ? 8 : 128 - isa.byte_origin;
  const int32_t factor = w.zeros ? -1 : -zero;
  return quantize_tiles(
      w, x, m, isa.tile_rows, isa.tile_rows * w.blocks * kTileRowBytes,
      [&](const float* from, int rows, uint8_t* tile) { isa.quantize(from, rows, w.columns, w.blocks, factor, tile); });
}

const uint8_t* quantize_many(const ManyRows& many, const PackedWeight& w, const float* x, int64_t m) {
  return quantize_tiles(
      w, x, m, many.tile_rows, many.tile_rows * spans_of(w) * kSpanRowBytes,
      [&](const float* from, int rows, uint8_t* tile) { many.quantize(from, rows, w.columns, spans_of(w), tile); });
}

std::atomic<bool>& spans_flag() {
  static std::atomic<bool> wanted{[] {
    const char* value = std::getenv("EDGEREASON_SPANS");
    return !value || std::string(value) != "off";
  }()};
  return wanted;
}

}  // namespace

bool spans_wanted() {
  return spans_flag().load(std::memory_order_relaxed);
}

void want_spans(bool wanted) {
  spans_flag().store(wanted, std::memory_order_relaxed);
}

void linear(const PackedWeight& w, const float* x, int64_t m, const float* add, int64_t add_stride,
            const AdapterRuns& runs, float* y) {
  if (m == 0) return;
  const Kernels& isa = kernels();
  const ManyRows* many = m > kFewRows && w.bits == 4 && spans_wanted() ? isa.many : nullptr;
  const float* h = project_down(runs, x, w.columns);
  const PackedProduct job{w, many ? quantize_many(*many, w, x, m) : quantize_few(isa, w, x, m), m, add, add_stride, y};
  const int64_t pairs = (w.panels + 1) / 2, work = 2 * w.blocks * kPanel * kBlock * m;
  parallel(pairs, std::max<int64_t>(1, 2 * kSmall / work), [&](int64_t begin, int64_t end) {
    const int64_t first = 2 * begin, last = std::min(2 * end, w.panels);
    uint8_t* scratch = chunk_scratch.reserve(size_t(spans_of(w)) * 2 * kPanelSpanBytes);
    (many ? many->packed : isa.packed)(job, first, last, scratch);
    update(runs, h, first, last, w.rows, y);
  });
}

void linear(const DenseWeight& w, const float* x, int64_t m, const float* add, int64_t add_stride,
            const AdapterRuns& runs, float* y) {
  if (m == 0) return;
  const Kernels& isa = kernels();
  const float* h = project_down(runs, x, w.columns);
  const DenseProduct job{w, x, m, add, add_stride, y};
  const int64_t panels = (w.rows + kPanel - 1) / kPanel;
  parallel(panels, grain_for(kPanel * w.columns * m), [&](int64_t begin, int64_t end) {
    isa.dense(job, kPanel * begin, std::min(kPanel * end, w.rows));
    update(runs, h, begin, end, w.rows, y);
  });
}

void add_bias(const float* add, int64_t add_stride, const float* bias, int64_t rows, int64_t width, float* y) {
  parallel(rows, grain_for(width), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++)
      for (int64_t i = 0; i < width; i++) y[t * width + i] = add[t * add_stride + i] + bias[i];
  });
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

void head_norm(float* x, int64_t x_stride, const float* weight, float eps, int64_t rows, int64_t heads, int64_t dim) {
  const Kernels& isa = kernels();
  parallel(rows, grain_for(heads * dim), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) isa.rms_norm(x + t * x_stride, weight, eps, heads, dim, x + t * x_stride);
  });
}

void rope(float* x, int64_t x_stride, const float* cos, const float* sin, int64_t rows, int64_t heads, int64_t dim,
          int64_t half) {
  const Kernels& isa = kernels();
  parallel(rows, grain_for(heads * dim), [&](int64_t begin, int64_t end) {
    isa.rope(x + begin * x_stride, x_stride, cos + begin * half, sin + begin * half, end - begin, heads, dim, half);
  });
}

void swiglu(const float* gate_up, int64_t rows, int64_t width, float* y) {
  const Kernels& isa = kernels();
  parallel(rows, grain_for(4 * width), [&](int64_t begin, int64_t end) {
    isa.swiglu(gate_up + 2 * begin * width, end - begin, width, y + begin * width);
  });
}

void geglu(const float* gate_up, int64_t rows, int64_t width, float* y) {
  const Kernels& isa = kernels();
  parallel(rows, grain_for(4 * width), [&](int64_t begin, int64_t end) {
    isa.geglu(gate_up + 2 * begin * width, end - begin, width, y + begin * width);
  });
}

void softcap(float* x, int64_t count, float cap) {
  const Kernels& isa = kernels();
  parallel(count, grain_for(4), [&](int64_t begin, int64_t end) { isa.softcap(x + begin, end - begin, cap); });
}

}  // namespace edgereason
