// AVX-512 with VNNI: one register holds the sixteen output rows of a block, one vpdpbusd multiplies four inputs of
// each.
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels.h"

namespace edgereason {
namespace {

struct Vec {
  using reg = __m512;
  static constexpr int lanes = 16, registers = 32;
  static reg zero() { return _mm512_setzero_ps(); }
  static reg set1(float v) { return _mm512_set1_ps(v); }
  static reg load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, reg v) { _mm512_storeu_ps(p, v); }
  static reg load_f16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static void store_f16(uint16_t* p, reg v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
  static reg load_bf16(const uint16_t* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
  static reg add(reg a, reg b) { return _mm512_add_ps(a, b); }
  static reg sub(reg a, reg b) { return _mm512_sub_ps(a, b); }
  static reg mul(reg a, reg b) { return _mm512_mul_ps(a, b); }
  static reg div(reg a, reg b) { return _mm512_div_ps(a, b); }
  static reg fma(reg a, reg b, reg c) { return _mm512_fmadd_ps(a, b, c); }
  static reg max(reg a, reg b) { return _mm512_max_ps(a, b); }
  static float sum(reg v) { return _mm512_reduce_add_ps(v); }
  static float highest(reg v) { return _mm512_reduce_max_ps(v); }
  static reg round(reg v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static reg scale(reg v, reg n) { return _mm512_scalef_ps(v, n); }
};

#include "generic.h"

// Eight rows: 8 registers of weights, 8 float sums, and room for the compiler to overlap the rows' integer chains.
constexpr int kTileRows = 8;

void quantize(const float* x, int rows, int64_t columns, int64_t blocks, int32_t factor, uint8_t* tile) {
  for (int64_t b = 0; b < blocks; b++, tile += rows * kTileRowBytes) {
    const int64_t left = columns - b * kBlock, count = left > 0 ? left : 0;  // none in blocks that only pad a group
    const __mmask32 mask = count >= kBlock ? ~__mmask32(0) : (__mmask32(1) << count) - 1;
    const __mmask16 low = __mmask16(mask), high = __mmask16(mask >> 16);
    for (int r = 0; r < rows; r++) {
      const float* from = x + r * columns + b * kBlock;
      const __m512 x0 = _mm512_maskz_loadu_ps(low, from), x1 = _mm512_maskz_loadu_ps(high, from + 16);
      const float highest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(x0), _mm512_abs_ps(x1)));
      const float scale = highest / 127.f, inverse = highest > 1e-30f ? 127.f / highest : 0.f;
      const __m512i q0 = _mm512_cvtps_epi32(_mm512_mul_ps(x0, _mm512_set1_ps(inverse)));
      const __m512i q1 = _mm512_cvtps_epi32(_mm512_mul_ps(x1, _mm512_set1_ps(inverse)));
      const int32_t sum = factor * _mm512_reduce_add_epi32(_mm512_add_epi32(q0, q1));
      auto* q = reinterpret_cast<__m128i*>(tile + r * kBlock);
      _mm_storeu_si128(q, _mm512_cvtsepi32_epi8(q0));
      _mm_storeu_si128(q + 1, _mm512_cvtsepi32_epi8(q1));
      memcpy(tile + rows * kBlock + 4 * r, &scale, 4);
      memcpy(tile + rows * (kBlock + 4) + 4 * r, &sum, 4);
    }
  }
}

// The eight lines of a block as unsigned bytes, from nibbles or as they are.
template <bool Nibbles>
void load_block(const uint8_t* block, __m512i (&w)[8]) {
  if constexpr (Nibbles) {
    const __m512i mask = _mm512_set1_epi8(15);
    for (int i = 0; i < 4; i++) {
      const __m512i line = _mm512_loadu_si512(block + 64 * i);
      w[2 * i] = _mm512_and_si512(line, mask);
      w[2 * i + 1] = _mm512_and_si512(_mm512_srli_epi16(line, 4), mask);
    }
  } else {
    for (int i = 0; i < 8; i++) w[i] = _mm512_loadu_si512(block + 64 * i);
  }
}

// One panel times one tile of R rows. The sums of activations enter as the integer chain's start: no instruction is
// spent on a symmetric zero point. |chain| <= 32 * 255 * 127 + 255 * 32 * 127 < 2^22.
template <int R, bool Nibbles, bool Zeros>
void panel_times_tile(const PackedWeight& w, const uint8_t* q, int64_t panel, const uint8_t* tile, __m512 (&y)[R]) {
  const int64_t per_group = w.blocks / w.groups;
  const uint16_t* scales = w.scales + panel * w.groups * kPanel;
  const uint8_t* zeros = Zeros ? w.zeros + panel * w.groups * kPanel : nullptr;
  for (int r = 0; r < R; r++) y[r] = _mm512_setzero_ps();
  for (int64_t g = 0; g < w.groups; g++) {
    const __m512 ws = Vec::load_f16(scales + g * kPanel);
    const __m512i z = Zeros
                          ? _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(zeros + g * kPanel)))
                          : _mm512_setzero_si512();
    for (int64_t b = 0; b < per_group; b++, q += Nibbles ? 256 : 512, tile += R * kTileRowBytes) {
      if constexpr (R == 1)
        for (int line = 0; line < (Nibbles ? 256 : 512); line += 64)
          _mm_prefetch(reinterpret_cast<const char*>(q + line + 4096), _MM_HINT_T0);
      __m512i lines[8];
      load_block<Nibbles>(q, lines);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        int32_t x[8], sum;
        float xs;
        memcpy(x, tile + r * kBlock, 32);
        memcpy(&xs, tile + R * kBlock + 4 * r, 4);
        memcpy(&sum, tile + R * (kBlock + 4) + 4 * r, 4);
        __m512i dot = _mm512_set1_epi32(sum);
        if constexpr (Zeros) dot = _mm512_mullo_epi32(dot, z);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) dot = _mm512_dpbusd_epi32(dot, lines[i], _mm512_set1_epi32(x[i]));
        y[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(ws, _mm512_set1_ps(xs)), y[r]);
      }
    }
  }
}

template <int R, bool Nibbles, bool Zeros>
void product(const PackedProduct& job, const uint8_t* q, int64_t panel, int64_t m0) {
  const int64_t rows = job.w.rows, n0 = panel * kPanel;
  const __mmask16 mask = rows - n0 >= kPanel ? __mmask16(0xffff) : __mmask16((1 << (rows - n0)) - 1);
  __m512 y[R];
  panel_times_tile<R, Nibbles, Zeros>(job.w, q, panel, job.tiles + m0 * job.w.blocks * kTileRowBytes, y);
  for (int r = 0; r < R; r++) {
    if (job.add) y[r] = _mm512_add_ps(y[r], _mm512_maskz_loadu_ps(mask, job.add + (m0 + r) * job.add_stride + n0));
    _mm512_mask_storeu_ps(job.y + (m0 + r) * rows + n0, mask, y[r]);
  }
}

template <bool Nibbles, bool Zeros>
void panel_times_rows(const PackedProduct& job, const uint8_t* q, int64_t panel) {
  int64_t m = 0;
  for (; m + kTileRows <= job.m; m += kTileRows) product<kTileRows, Nibbles, Zeros>(job, q, panel, m);
  switch (job.m - m) {
    case 7:
      return product<7, Nibbles, Zeros>(job, q, panel, m);
    case 6:
      return product<6, Nibbles, Zeros>(job, q, panel, m);
    case 5:
      return product<5, Nibbles, Zeros>(job, q, panel, m);
    case 4:
      return product<4, Nibbles, Zeros>(job, q, panel, m);
    case 3:
      return product<3, Nibbles, Zeros>(job, q, panel, m);
    case 2:
      return product<2, Nibbles, Zeros>(job, q, panel, m);
    case 1:
      return product<1, Nibbles, Zeros>(job, q, panel, m);
  }
}

template <bool Zeros>
void packed_typed(const PackedProduct& job, int64_t begin, int64_t end, uint8_t* scratch) {
  const int64_t blocks = job.w.blocks, panel_bytes = blocks * kPanel * kBlock * job.w.bits / 8;
  for (int64_t panel = begin; panel < end; panel++) {
    const uint8_t* q = job.w.qweight + panel * panel_bytes;
    if (job.w.bits == 8) {
      panel_times_rows<false, Zeros>(job, q, panel);
    } else if (job.m <= kTileRows) {
      panel_times_rows<true, Zeros>(job, q, panel);
    } else {  // unpacked once into L1 or L2 for all tiles
      for (int64_t b = 0; b < blocks; b++) {
        __m512i lines[8];
        load_block<true>(q + 256 * b, lines);
        for (int i = 0; i < 8; i++) _mm512_store_si512(scratch + 512 * b + 64 * i, lines[i]);
      }
      panel_times_rows<false, Zeros>(job, scratch, panel);
    }
  }
}

void packed(const PackedProduct& job, int64_t begin, int64_t end, uint8_t* scratch) {
  job.w.zeros ? packed_typed<true>(job, begin, end, scratch) : packed_typed<false>(job, begin, end, scratch);
}

const Kernels kTable = {"avx512vnni", kTileRows, 0,      quantize, packed,    dense,
                        rms_norm,     rope,      swiglu, append,   attention, to_float};

}  // namespace

const Kernels* avx512vnni_kernels() {
  return &kTable;
}

}  // namespace edgereason
