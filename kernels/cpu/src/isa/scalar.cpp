// The reference: plain C++ for any machine, and what every other instruction set is tested against.
#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "rounding/rounding.h"

namespace edgereason {
namespace {

struct Vec {
  using reg = float;
  static constexpr int lanes = 1, registers = 16;
  static reg zero() { return 0; }
  static reg set1(float v) { return v; }
  static reg load(const float* p) { return *p; }
  static void store(float* p, reg v) { *p = v; }
  static reg load_f16(const uint16_t* p);
  static void store_f16(uint16_t* p, reg v);
  static reg load_bf16(const uint16_t* p);
  static reg load_s8(const int8_t* p) { return *p; }
  static reg add(reg a, reg b) { return a + b; }
  static reg sub(reg a, reg b) { return a - b; }
  static reg mul(reg a, reg b) { return a * b; }
  static reg div(reg a, reg b) { return a / b; }
  static reg fma(reg a, reg b, reg c) { return a * b + c; }
  static reg max(reg a, reg b) { return a > b ? a : b; }
  static float sum(reg v) { return v; }
  static float highest(reg v) { return v; }
  static reg round(reg v) { return nearbyintf(v); }
  static reg scale(reg v, reg n) { return ldexpf(v, int(n)); }
};

#include "generic.h"

Vec::reg Vec::load_f16(const uint16_t* p) {
  return from_f16(*p);
}
void Vec::store_f16(uint16_t* p, reg v) {
  *p = to_f16(v);
}
Vec::reg Vec::load_bf16(const uint16_t* p) {
  return from_bf16(*p);
}

constexpr int kTileRows = 4, kByteOrigin = 0;

struct Rounded {
  float scale;
  int32_t sum;
};

// Some values to s8, `count` of them and then zeros up to `size`.
Rounded quantize_row(const float* from, int64_t count, int64_t size, int8_t* q) {
  float highest = 0;
  for (int64_t k = 0; k < count; k++) highest = fabsf(from[k]) > highest ? fabsf(from[k]) : highest;
  const float inverse = highest > 1e-30f ? 127.f / highest : 0.f;
  int32_t sum = 0;
  for (int64_t k = 0; k < size; k++) {
    const float v = k < count ? nearbyintf(from[k] * inverse) : 0.f;
    q[k] = int8_t(v >= -127.f && v <= 127.f ? int(v) : 0);
    sum += q[k];
  }
  return {highest / 127.f, sum};
}

void quantize(const float* x, int rows, int64_t columns, int64_t blocks, int32_t factor, uint8_t* tile) {
  assert(0 < rows && rows <= kTileRows && columns <= blocks * kBlock);
  for (int64_t b = 0; b < blocks; b++, tile += rows * kTileRowBytes)
    for (int r = 0; r < rows; r++) {
      const int64_t left = columns - b * kBlock;
      const Rounded row = quantize_row(x + r * columns + b * kBlock, left < kBlock ? left : kBlock, kBlock,
                                       reinterpret_cast<int8_t*>(tile) + r * kBlock);
      const int32_t sum = factor * row.sum;
      memcpy(tile + rows * kBlock + 4 * r, &row.scale, 4);
      memcpy(tile + rows * (kBlock + 4) + 4 * r, &sum, 4);
    }
}

// The 32 stored values of row r of a block, in order.
void unpack(const uint8_t* block, int bits, int r, int32_t* out) {
  for (int k = 0; k < kBlock; k++) {
    const uint8_t byte = bits == 4 ? block[k / 8 * 64 + 4 * r + k % 4] : block[k / 4 * 64 + 4 * r + k % 4];
    out[k] = bits == 8 ? byte : k % 8 < 4 ? byte & 15 : byte >> 4;
  }
}

void packed(const PackedProduct& job, int64_t begin, int64_t end, uint8_t*) {
  assert(0 <= begin && begin <= end && end <= job.w.panels && job.w.blocks % job.w.groups == 0);
  const PackedWeight& w = job.w;
  const int64_t per_group = w.blocks / w.groups, block_bytes = kPanel * kBlock * w.bits / 8;
  for (int64_t m = 0; m < job.m; m++) {
    const int64_t first = m / kTileRows * kTileRows;
    const int rows = int(job.m - first < kTileRows ? job.m - first : kTileRows), row = int(m - first);
    for (int64_t n = begin * kPanel; n < end * kPanel && n < w.rows; n++) {
      const uint8_t* tile = job.tiles + first * w.blocks * kTileRowBytes;
      const int64_t panel = n / kPanel, r = n % kPanel;
      float y = 0;
      for (int64_t b = 0; b < w.blocks; b++, tile += rows * kTileRowBytes) {
        const int64_t group = (panel * w.groups + b / per_group) * kPanel + r;
        int32_t q[kBlock], sum;
        float scale;
        unpack(w.qweight + (panel * w.blocks + b) * block_bytes, w.bits, int(r), q);
        memcpy(&scale, tile + rows * kBlock + 4 * row, 4);
        memcpy(&sum, tile + rows * (kBlock + 4) + 4 * row, 4);
        int32_t dot = w.zeros ? sum * w.zeros[group] : sum;
        for (int k = 0; k < kBlock; k++) dot += q[k] * reinterpret_cast<const int8_t*>(tile)[row * kBlock + k];
        y += scale * from_f16(w.scales[group]) * float(dot);
      }
      job.y[m * w.rows + n] = job.add ? y + job.add[m * job.add_stride + n] : y;
    }
  }
}

// ---- many rows -----------------------------------------------------------------------------------------------------

void quantize_many(const float* x, int rows, int64_t columns, int64_t spans, uint8_t* tile) {
  assert(0 < rows && rows <= kTileRows && columns <= spans * kSpan);
  for (int64_t s = 0; s < spans; s++, tile += kTileRows * kSpanRowBytes)
    for (int r = 0; r < rows; r++) {
      const int64_t left = columns - s * kSpan;
      const auto [scale, sum] = quantize_row(x + r * columns + s * kSpan, left < kSpan ? left : kSpan, kSpan,
                                             reinterpret_cast<int8_t*>(tile) + r * kSpan);
      const int32_t start = -128 * sum;
      memcpy(tile + kTileRows * kSpan + 4 * r, &scale, 4);
      memcpy(tile + kTileRows * (kSpan + 4) + 4 * r, &start, 4);
    }
}

// Row r of a panel's blocks first <= b < last into w8; returns its scale.
float unpack_span(const PackedWeight& w, int64_t panel, int r, int64_t first, int64_t last, int32_t* w8) {
  const int64_t per_group = w.blocks / w.groups;
  const auto index = [&](int64_t b) { return (panel * w.groups + b / per_group) * kPanel + r; };
  const auto zero = [&](int64_t b) { return w.zeros ? int32_t(w.zeros[index(b)]) : 8; };
  float s = 0;
  for (int64_t b = first; b < last; b++) {
    const int32_t d = zero(b) > 15 - zero(b) ? zero(b) : 15 - zero(b);
    const float range = fabsf(from_f16(w.scales[index(b)])) * float(d);
    s = range > s ? range : s;
  }
  const float inverse = s > 0 ? kReach / s : 0.f;
  for (int64_t b = first; b < last; b++, w8 += kBlock) {
    unpack(w.qweight + (panel * w.blocks + b) * 256, 4, r, w8);
    const float b16 = nearbyintf(from_f16(w.scales[index(b)]) * inverse);
    const int32_t factor = b16 >= -kReach && b16 <= kReach ? int32_t(b16) : 0;  // not a number where a scale is none
    for (int k = 0; k < kBlock; k++) w8[k] = ((w8[k] - zero(b)) * factor + 128) >> 8;
  }
  return s * (1.f / 120);
}

void packed_many(const PackedProduct& job, int64_t begin, int64_t end, uint8_t* scratch) {
  assert(0 <= begin && begin <= end && end <= job.w.panels && job.w.blocks % job.w.groups == 0 && job.w.bits == 4);
  const PackedWeight& w = job.w;
  const int64_t spans = (w.blocks + kSpanBlocks - 1) / kSpanBlocks;
  auto* w8 = reinterpret_cast<int32_t*>(scratch);  // one output row: less than two panels of bytes
  auto* ws = reinterpret_cast<float*>(w8 + spans * kSpan);
  for (int64_t n = begin * kPanel; n < end * kPanel && n < w.rows; n++) {
    for (int64_t s = 0; s < spans; s++) {
      const int64_t first = s * kSpanBlocks, last = first + kSpanBlocks < w.blocks ? first + kSpanBlocks : w.blocks;
      ws[s] = unpack_span(w, n / kPanel, int(n % kPanel), first, last, w8 + s * kSpan);
    }
    for (int64_t m = 0; m < job.m; m++) {
      const int64_t row = m % kTileRows;
      const uint8_t* tile = job.tiles + (m - row) * spans * kSpanRowBytes;
      float y = 0;
      for (int64_t s = 0; s < spans; s++, tile += kTileRows * kSpanRowBytes) {
        const auto* x = reinterpret_cast<const int8_t*>(tile) + row * kSpan;
        const int64_t left = w.blocks * kBlock - s * kSpan, count = left < kSpan ? left : kSpan;
        float xs;
        memcpy(&xs, tile + kTileRows * kSpan + 4 * row, 4);
        int32_t dot = 0;  // the weights are signed here: no need for the sums of x
        for (int64_t k = 0; k < count; k++) dot += w8[s * kSpan + k] * x[k];
        y += xs * ws[s] * float(dot);
      }
      job.y[m * w.rows + n] = job.add ? y + job.add[m * job.add_stride + n] : y;
    }
  }
}

const ManyRows kMany = {kTileRows, quantize_many, packed_many};

#include "table.h"

constexpr Kernels kTable = table_of("scalar", round_panels_scalar, &kMany);

}  // namespace

const Kernels* scalar_kernels() {
  return &kTable;
}

}  // namespace edgereason
