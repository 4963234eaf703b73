// Packed products with NEON dot products, shared by the baseline (sdot) and by i8mm, which multiplies single rows so.
//
// A unit includes this inside its anonymous namespace after defining
//   Weights, from_bytes, from_nibbles     sixteen weights as the dot product takes them, from stored bytes or nibbles
//   dot<L>(sum, w, x)                     adds four products of each of four rows: w times the inputs in 32-bit lane L
//                                         of x
//   kByteOrigin                           what that dot product subtracts from stored 8-bit weights by itself
//   store_row(tile, r, rows, q0, q1)      puts the 32 values of row r into a block of a tile
// A register holds four inputs of four output rows, a quarter of a panel's line. The activations need no broadcast: the
// instruction takes four of them from any lane of a register that was loaded once for 16 inputs.

struct Vec {
  using reg = float32x4_t;
  static constexpr int lanes = 4, registers = 32;
  static reg zero() { return vdupq_n_f32(0); }
  static reg set1(float v) { return vdupq_n_f32(v); }
  static reg load(const float* p) { return vld1q_f32(p); }
  static void store(float* p, reg v) { vst1q_f32(p, v); }
  static reg load_f16(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
  static void store_f16(uint16_t* p, reg v) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(v))); }
  static reg load_bf16(const uint16_t* p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
  static reg load_s8(const int8_t* p) {
    int32_t four;
    memcpy(&four, p, 4);
    const int16x8_t wide = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
  }
  static reg add(reg a, reg b) { return vaddq_f32(a, b); }
  static reg sub(reg a, reg b) { return vsubq_f32(a, b); }
  static reg mul(reg a, reg b) { return vmulq_f32(a, b); }
  static reg div(reg a, reg b) { return vdivq_f32(a, b); }
  static reg fma(reg a, reg b, reg c) { return vfmaq_f32(c, a, b); }
  static reg max(reg a, reg b) { return vmaxq_f32(a, b); }
  static float sum(reg v) { return vaddvq_f32(v); }
  static float highest(reg v) { return vmaxvq_f32(v); }
  static reg round(reg v) { return vrndnq_f32(v); }
  static reg scale(reg v, reg n) {
    return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(v), vshlq_n_s32(vcvtnq_s32_f32(n), 23)));
  }
};

#include "generic.h"

void quantize(const float* x, int rows, int64_t columns, int64_t blocks, int32_t factor, uint8_t* tile) {
  assert(0 < rows && columns <= blocks * kBlock);
  for (int64_t b = 0; b < blocks; b++, tile += rows * kTileRowBytes) {
    const int64_t left = columns - b * kBlock, count = left > 0 ? left : 0;  // none in blocks that only pad a group
    for (int r = 0; r < rows; r++) {
      const float* from = x + r * columns + b * kBlock;
      float padded[kBlock];
      if (count < kBlock) {
        memset(padded, 0, sizeof padded);
        memcpy(padded, from, sizeof(float) * size_t(count));
        from = padded;
      }
      float32x4_t v[8], highest = vdupq_n_f32(0);
      for (int i = 0; i < 8; i++) {
        v[i] = vld1q_f32(from + 4 * i);
        highest = vmaxq_f32(highest, vabsq_f32(v[i]));
      }
      const float top = vmaxvq_f32(highest), scale = top / 127.f, inverse = top > 1e-30f ? 127.f / top : 0.f;
      int16x4_t q[8];
      for (int i = 0; i < 8; i++) q[i] = vqmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(v[i], inverse)));
      int8x8_t bytes[4];
      for (int i = 0; i < 4; i++) bytes[i] = vqmovn_s16(vcombine_s16(q[2 * i], q[2 * i + 1]));
      const int8x16_t q0 = vcombine_s8(bytes[0], bytes[1]), q1 = vcombine_s8(bytes[2], bytes[3]);
      const int32_t sum = factor * (int32_t(vaddlvq_s8(q0)) + int32_t(vaddlvq_s8(q1)));
      store_row(reinterpret_cast<int8_t*>(tile), r, rows, q0, q1);
      memcpy(tile + rows * kBlock + 4 * r, &scale, 4);
      memcpy(tile + rows * (kBlock + 4) + 4 * r, &sum, 4);
    }
  }
}

// How a panel's bytes are stored: packed nibbles, 8-bit weights, or brought by this unit into the form that it
// multiplies.
enum class Format { nibbles, bytes, prepared };

template <Format F>
constexpr int kBlockBytes = F == Format::nibbles ? 256 : 512;

void prefetch([[maybe_unused]] const uint8_t* p) {
#ifndef _MSC_VER
  __builtin_prefetch(p);
#endif
}

struct EightInputs {  // of four rows: inputs 0 to 3, and 4 to 7
  Weights first, second;
};

// Inputs 8i .. 8i + 7 of rows 4 * quarter .. of a block of nibbles or bytes.
template <Format F>
EightInputs load_eight(const uint8_t* block, int i, int quarter) {
  if constexpr (F == Format::nibbles) {
    const uint8x16_t line = vld1q_u8(block + 64 * i + 16 * quarter);
    return {from_nibbles(vandq_u8(line, vdupq_n_u8(15))), from_nibbles(vshrq_n_u8(line, 4))};
  } else {
    const uint8_t* lines = block + 128 * i + 16 * quarter;
    return {from_bytes(vld1q_u8(lines)), from_bytes(vld1q_u8(lines + 64))};
  }
}

// Zero points of four rows, as the dot product sees them.
int32x4_t load_zeros(const uint8_t* p, int bits) {
  uint32_t four;
  memcpy(&four, p, 4);
  const uint16x4_t wide = vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four))));
  return vsubq_s32(vreinterpretq_s32_u32(vmovl_u16(wide)), vdupq_n_s32(bits == 8 ? kByteOrigin : 0));
}

// V quarters of a panel, from `quarter` on, times one tile of R rows: R * V independent chains, which start at the sums
// of activations, so that a symmetric zero point costs no instruction. |chain| <= 32 * 255 * 127 + 255 * 32 * 127.
template <int R, int V, Format F, bool Zeros>
void quarters_times_tile(const PackedWeight& w, const uint8_t* q, int64_t panel, int quarter, const uint8_t* tile,
                         float32x4_t (&y)[R][V]) {
  const int64_t per_group = w.blocks / w.groups;
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) y[r][v] = vdupq_n_f32(0);
  for (int64_t g = 0; g < w.groups; g++) {
    const int64_t group = (panel * w.groups + g) * kPanel + 4 * quarter;
    float32x4_t ws[V];
    int32x4_t z[V];
    for (int v = 0; v < V; v++) {
      ws[v] = Vec::load_f16(w.scales + group + 4 * v);
      if constexpr (Zeros) z[v] = load_zeros(w.zeros + group + 4 * v, w.bits);
    }
    for (int64_t b = 0; b < per_group; b++, q += kBlockBytes<F>, tile += R * kTileRowBytes) {
      if constexpr (R == 1)
        for (int line = 0; line < kBlockBytes<F>; line += 64) prefetch(q + line + 4096);
      const auto* sums = reinterpret_cast<const int32_t*>(tile + R * (kBlock + 4));
      int32x4_t dots[R][V];
      for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) {
          dots[r][v] = vld1q_dup_s32(sums + r);
          if constexpr (Zeros) dots[r][v] = vmulq_s32(dots[r][v], z[v]);
        }
      for (int half = 0; half < 2; half++) {
        int8x16_t x[R];
        for (int r = 0; r < R; r++) x[r] = vld1q_s8(reinterpret_cast<const int8_t*>(tile) + r * kBlock + 16 * half);
        for (int v = 0; v < V; v++) {
          const EightInputs low = load_eight<F>(q, 2 * half, quarter + v);
          const EightInputs high = load_eight<F>(q, 2 * half + 1, quarter + v);
          for (int r = 0; r < R; r++) {
            dots[r][v] = dot<1>(dot<0>(dots[r][v], low.first, x[r]), low.second, x[r]);
            dots[r][v] = dot<3>(dot<2>(dots[r][v], high.first, x[r]), high.second, x[r]);
          }
        }
      }
      const auto* scales = reinterpret_cast<const float*>(tile + R * kBlock);
      for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++)
          y[r][v] = vfmaq_f32(y[r][v], vcvtq_f32_s32(dots[r][v]), vmulq_n_f32(ws[v], scales[r]));
    }
  }
}

// Writes the four outputs n0 .. n0 + 3 of row m, or those of them that exist.
void store_outputs(const PackedProduct& job, int64_t m, int64_t n0, float32x4_t y) {
  const int64_t left = job.w.rows - n0;
  if (left <= 0) return;
  float* to = job.y + m * job.w.rows + n0;
  const float* add = job.add ? job.add + m * job.add_stride + n0 : nullptr;
  if (left >= 4) return vst1q_f32(to, add ? vaddq_f32(y, vld1q_f32(add)) : y);
  float values[4];
  vst1q_f32(values, y);
  for (int64_t i = 0; i < left; i++) to[i] = add ? values[i] + add[i] : values[i];
}

// One panel times the tile of R rows that starts at row m0.
template <int R, Format F, bool Zeros>
void dot_product(const PackedProduct& job, const uint8_t* q, int64_t panel, int64_t m0) {
  constexpr int kQuarters = R <= 2 ? 4 : 2;  // 16 sums of each kind at most
  const uint8_t* tile = job.tiles + m0 * job.w.blocks * kTileRowBytes;
  for (int quarter = 0; quarter < 4; quarter += kQuarters) {
    float32x4_t y[R][kQuarters];
    quarters_times_tile<R, kQuarters, F, Zeros>(job.w, q, panel, quarter, tile, y);
    for (int r = 0; r < R; r++)
      for (int v = 0; v < kQuarters; v++) store_outputs(job, m0 + r, panel * kPanel + 4 * (quarter + v), y[r][v]);
  }
}
