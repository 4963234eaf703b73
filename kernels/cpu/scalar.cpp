// The reference: plain C++ for any machine, and what every other instruction set is tested against.
#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels.h"

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

constexpr int kTileRows = 4;

void quantize(const float* x, int rows, int64_t columns, int64_t blocks, int32_t factor, uint8_t* tile) {
  assert(0 < rows && rows <= kTileRows && columns <= blocks * kBlock);
  for (int64_t b = 0; b < blocks; b++, tile += rows * kTileRowBytes)
    for (int r = 0; r < rows; r++) {
      const float* from = x + r * columns + b * kBlock;
      const int64_t count = columns - b * kBlock < kBlock ? columns - b * kBlock : kBlock;
      float highest = 0;
      for (int64_t k = 0; k < count; k++) highest = fabsf(from[k]) > highest ? fabsf(from[k]) : highest;
      const float scale = highest / 127.f, inverse = highest > 1e-30f ? 127.f / highest : 0.f;
      auto* q = reinterpret_cast<int8_t*>(tile) + r * kBlock;
      int32_t sum = 0;
      for (int64_t k = 0; k < kBlock; k++) {
        const float v = k < count ? nearbyintf(from[k] * inverse) : 0.f;
        q[k] = int8_t(v >= -127.f && v <= 127.f ? int(v) : 0);
        sum += q[k];
      }
      sum *= factor;
      memcpy(tile + rows * kBlock + 4 * r, &scale, 4);
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

const Kernels kTable = {"scalar", kTileRows, 0,     quantize, packed, dense,     update,  rms_norm,
                        rope,     swiglu,    geglu, softcap,  append, attention, combine, to_float};

}  // namespace

const Kernels* scalar_kernels() {
  return &kTable;
}

}  // namespace edgereason
