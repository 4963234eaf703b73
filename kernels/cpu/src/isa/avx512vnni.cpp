// AVX-512 with VNNI: one register holds the sixteen output rows of a block, one vpdpbusd multiplies four inputs of
// each.
#include <assert.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "rounding/rounding.h"

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
  static reg load_s8(const int8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
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
#include "spans_512.h"

// Eight rows times two panels are 16 integer chains and 16 float sums, of which some wait in memory: they leave it once
// for eight lines. Six rows would fit into registers, but take more loads for each product.
constexpr int kTileRows = 8, kByteOrigin = 0;

void quantize(const float* x, int rows, int64_t columns, int64_t blocks, int32_t factor, uint8_t* tile) {
  assert(0 < rows && rows <= kTileRows && columns <= blocks * kBlock);
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

// Four bytes at a time, so that GCC makes each an operand in memory; from wider loads it would shift and move them.
__m512i broadcast4(const uint8_t* p) {
  int32_t four;
  memcpy(&four, p, 4);
  return _mm512_set1_epi32(four);
}

// Line i of eight of a block as unsigned bytes, from nibbles or as it is.
template <bool Nibbles>
__m512i load_line(const uint8_t* block, int i) {
  if constexpr (!Nibbles) return _mm512_loadu_si512(block + 64 * i);
  const __m512i line = _mm512_loadu_si512(block + 64 * (i / 2));
  return _mm512_and_si512(i % 2 ? _mm512_srli_epi16(line, 4) : line, _mm512_set1_epi8(15));
}

// Of each block of the panels behind those at work, the lines that one tile fetches, in bytes: first, first + step, ...
struct Ahead {
  int64_t first, step;
};

// P panels times one tile of R rows: each broadcast of activations serves P panels, and P * R independent chains hide
// the latency of the dot products. The sums of activations enter as the chains' start: a symmetric zero point costs no
// instruction. |chain| <= 32 * 255 * 127 + 255 * 32 * 127 < 2^22.
template <int P, int R, bool Nibbles, bool Zeros>
void panels_times_tile(const PackedWeight& w, const uint8_t* q, int64_t panel, const uint8_t* tile, Ahead ahead,
                       __m512 (&y)[P][R]) {
  constexpr int kBlockBytes = Nibbles ? 256 : 512;
  const int64_t per_group = w.blocks / w.groups, panel_bytes = w.blocks * kBlockBytes;
  // One panel is read in order, some blocks ahead. Two are two streams that each end soon, so what comes next is
  // fetched from their successors, a share of it by each tile.
  const int64_t distance = P == 1 ? 4096 : P * panel_bytes;
  for (int p = 0; p < P; p++)
    for (int r = 0; r < R; r++) y[p][r] = _mm512_setzero_ps();
  for (int64_t g = 0; g < w.groups; g++) {
    __m512 ws[P];
    __m512i z[P];
    for (int p = 0; p < P; p++) {
      const int64_t group = ((panel + p) * w.groups + g) * kPanel;
      ws[p] = Vec::load_f16(w.scales + group);
      if constexpr (Zeros)
        z[p] = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w.zeros + group)));
    }
    for (int64_t b = 0; b < per_group; b++, q += kBlockBytes, tile += R * kTileRowBytes) {
      for (int p = 0; p < P; p++)
        for (int64_t line = ahead.first; line < kBlockBytes; line += ahead.step)
          _mm_prefetch(reinterpret_cast<const char*>(q + distance + p * panel_bytes + line), _MM_HINT_T0);
      __m512i dots[P][R];
      for (int r = 0; r < R; r++)
        for (int p = 0; p < P; p++) {
          dots[p][r] = broadcast4(tile + R * (kBlock + 4) + 4 * r);
          if constexpr (Zeros) dots[p][r] = _mm512_mullo_epi32(dots[p][r], z[p]);
        }
#pragma GCC unroll 8
      for (int i = 0; i < 8; i++) {
        __m512i lines[P];
        for (int p = 0; p < P; p++) lines[p] = load_line<Nibbles>(q + p * panel_bytes, i);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
          const __m512i x = broadcast4(tile + r * kBlock + 4 * i);
          for (int p = 0; p < P; p++) dots[p][r] = _mm512_dpbusd_epi32(dots[p][r], lines[p], x);
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        const __m512 xs = _mm512_castsi512_ps(broadcast4(tile + R * kBlock + 4 * r));
        for (int p = 0; p < P; p++)
          y[p][r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[p][r]), _mm512_mul_ps(ws[p], xs), y[p][r]);
      }
    }
  }
}

template <int P, int R>
void store(const PackedProduct& job, int64_t panel, int64_t m0, const __m512 (&y)[P][R]) {
  for (int p = 0; p < P; p++)
    for (int r = 0; r < R; r++) store_outputs(job, panel + p, m0 + r, y[p][r]);
}

template <int P, int R, bool Nibbles, bool Zeros>
void product(const PackedProduct& job, int64_t panel, int64_t m0) {
  __m512 y[P][R];
  const uint8_t* q = job.w.qweight + panel * job.w.blocks * (Nibbles ? 256 : 512);
  const int64_t tiles = (job.m + kTileRows - 1) / kTileRows;
  for (int r = 0; P > 1 && r < R; r++) prefetch_outputs<P>(job, panel, m0 + r);
  panels_times_tile<P, R, Nibbles, Zeros>(job.w, q, panel, job.tiles + m0 * job.w.blocks * kTileRowBytes,
                                          {m0 / kTileRows * 64, tiles * 64}, y);
  store<P, R>(job, panel, m0, y);
}

template <int P, bool Nibbles, bool Zeros>
void panels_times_rows(const PackedProduct& job, int64_t panel) {
  int64_t m = 0;
  for (; m + kTileRows <= job.m; m += kTileRows) product<P, kTileRows, Nibbles, Zeros>(job, panel, m);
  switch (job.m - m) {
    case 7:
      return product<P, 7, Nibbles, Zeros>(job, panel, m);
    case 6:
      return product<P, 6, Nibbles, Zeros>(job, panel, m);
    case 5:
      return product<P, 5, Nibbles, Zeros>(job, panel, m);
    case 4:
      return product<P, 4, Nibbles, Zeros>(job, panel, m);
    case 3:
      return product<P, 3, Nibbles, Zeros>(job, panel, m);
    case 2:
      return product<P, 2, Nibbles, Zeros>(job, panel, m);
    case 1:
      return product<P, 1, Nibbles, Zeros>(job, panel, m);
  }
}

template <bool Nibbles, bool Zeros>
void packed_typed(const PackedProduct& job, int64_t begin, int64_t end) {
  constexpr int64_t kOnePanel = 4;  // rows up to which reading takes longer than multiplying: best read in order
  int64_t panel = begin;
  for (; job.m > kOnePanel && panel + 2 <= end; panel += 2) panels_times_rows<2, Nibbles, Zeros>(job, panel);
  for (; panel < end; panel++) panels_times_rows<1, Nibbles, Zeros>(job, panel);
}

void packed(const PackedProduct& job, int64_t begin, int64_t end, uint8_t*) {
  assert(0 <= begin && begin <= end && end <= job.w.panels && job.w.blocks % job.w.groups == 0);
  if (job.w.bits == 4)
    job.w.zeros ? packed_typed<true, true>(job, begin, end) : packed_typed<true, false>(job, begin, end);
  else
    job.w.zeros ? packed_typed<false, true>(job, begin, end) : packed_typed<false, false>(job, begin, end);
}

// ---- many rows -----------------------------------------------------------------------------------------------------

// Eight rows times two panels are 16 integer chains: fewer loads for each product than six rows need, and room left for
// the compiler. The float sums wait in memory, which they leave once for 32 lines.
constexpr int kManyTileRows = 8;

void quantize_many(const float* x, int rows, int64_t columns, int64_t spans, uint8_t* tile) {
  assert(0 < rows && rows <= kManyTileRows && columns <= spans * kSpan);
  quantize_spans(x, rows, kManyTileRows, columns, spans, tile);
}

// P unpacked panels times R rows of one tile.
template <int P, int R>
void many_product(const PackedProduct& job, const uint8_t* panels, int64_t spans, int64_t panel, int64_t m0) {
  __m512 y[P][R];
  for (int p = 0; p < P; p++)
    for (int r = 0; r < R; r++) y[p][r] = _mm512_setzero_ps();
  for (int r = 0; r < R; r++) prefetch_outputs<P>(job, panel, m0 + r);
  const uint8_t* tile = job.tiles + m0 * spans * kSpanRowBytes;
  const int64_t panel_bytes = spans * kPanelSpanBytes;
  for (int64_t s = 0; s < spans; s++, panels += kPanelSpanBytes, tile += kManyTileRows * kSpanRowBytes) {
    __m512i dots[P][R];
    for (int r = 0; r < R; r++)
      for (int p = 0; p < P; p++) dots[p][r] = broadcast4(tile + kManyTileRows * (kSpan + 4) + 4 * r);
// Unrolled in full, GCC moves loads ahead and spills the sums.
#pragma GCC unroll 1
    for (int block = 0; block < kSpan; block += 16)
#pragma GCC unroll 4
      for (int k = block; k < block + 16; k += 4) {
        __m512i lines[P];
        for (int p = 0; p < P; p++) lines[p] = _mm512_load_si512(panels + p * panel_bytes + kPanel * k);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
          const __m512i x = broadcast4(tile + r * kSpan + k);
          for (int p = 0; p < P; p++) dots[p][r] = _mm512_dpbusd_epi32(dots[p][r], lines[p], x);
        }
      }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const __m512 xs = _mm512_castsi512_ps(broadcast4(tile + kManyTileRows * kSpan + 4 * r));
      for (int p = 0; p < P; p++) {
        const __m512 ws = _mm512_load_ps(panels + p * panel_bytes + kPanel * kSpan);
        y[p][r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[p][r]), _mm512_mul_ps(ws, xs), y[p][r]);
      }
    }
  }
  store<P, R>(job, panel, m0, y);
}

// P panels times all rows.
template <int P>
void many_panels(const PackedProduct& job, int64_t panel, uint8_t* scratch) {
  const int64_t spans = (job.w.blocks + kSpanBlocks - 1) / kSpanBlocks;
  for (int p = 0; p < P; p++) unpack_panel<128>(job.w, panel + p, scratch + p * spans * kPanelSpanBytes);
  NextPanels next(job, panel + P, P, kManyTileRows);
  int64_t m = 0;
  for (; m + kManyTileRows <= job.m; m += kManyTileRows) {
    next.fetch();
    many_product<P, kManyTileRows>(job, scratch, spans, panel, m);
  }
  switch (job.m - m) {
    case 7:
      return many_product<P, 7>(job, scratch, spans, panel, m);
    case 6:
      return many_product<P, 6>(job, scratch, spans, panel, m);
    case 5:
      return many_product<P, 5>(job, scratch, spans, panel, m);
    case 4:
      return many_product<P, 4>(job, scratch, spans, panel, m);
    case 3:
      return many_product<P, 3>(job, scratch, spans, panel, m);
    case 2:
      return many_product<P, 2>(job, scratch, spans, panel, m);
    case 1:
      return many_product<P, 1>(job, scratch, spans, panel, m);
  }
}

void packed_many(const PackedProduct& job, int64_t begin, int64_t end, uint8_t* scratch) {
  assert(job.w.bits == 4);
  assert(0 <= begin && begin <= end && end <= job.w.panels && job.w.blocks % job.w.groups == 0);
  assert(reinterpret_cast<uintptr_t>(scratch) % 64 == 0);
  int64_t panel = begin;
  for (; panel + 2 <= end; panel += 2) many_panels<2>(job, panel, scratch);
  if (panel < end) many_panels<1>(job, panel, scratch);
}

const ManyRows kMany = {kManyTileRows, quantize_many, packed_many};

#include "table.h"

constexpr Kernels kTable = table_of("avx512vnni", round_panels_avx512, &kMany);

}  // namespace

const Kernels* avx512vnni_kernels() {
  return &kTable;
}

}  // namespace edgereason
