// AMX with int8 tiles (Sapphire Rapids and later) for many rows; everything else is AVX-512 VNNI's.
//
// A tile instruction multiplies 16 rows of activations by 64 inputs with 64 inputs by 16 output rows: a panel's lines
// are its second operand as they are stored. Two tiles of activations times two panels fill four tiles of sums, and use
// each operand twice. A span is two such steps; then the sums go through memory to be scaled, while the next span's
// products are under way.
#include <assert.h>
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

namespace edgereason {
namespace {

#include "amx_tiles.h"
#include "spans_512.h"

constexpr int kManyTileRows = 2 * kTileLines;

constexpr int kPanelSums = kManyTileRows * kPanel;  // [32, 16], of one panel

void quantize_many(const float* x, int rows, int64_t columns, int64_t spans, uint8_t* tile) {
  assert(0 < rows && rows <= kManyTileRows && columns <= spans * kSpan);
  quantize_spans(x, rows, kManyTileRows, columns, spans, tile);
}

// One span of P panels, `panel_bytes` apart, times a tile's first 16 rows, or all 32 with H = 2. Tiles 0 to 3 are sums,
// 4 and 5 activations, 6 and 7 weights.
template <int P, int H>
void multiply_span(const uint8_t* panels, int64_t panel_bytes, const uint8_t* tile, int32_t* sums) {
  constexpr int64_t kSumBytes = kPanel * sizeof(int32_t);
  zero_tile<0>();
  if constexpr (H == 2) zero_tile<1>();
  if constexpr (P == 2) zero_tile<2>();
  if constexpr (H == 2 && P == 2) zero_tile<3>();
  for (int64_t k = 0; k < kSpan; k += kTileBytes) {
    load_tile<4>(tile + k, kSpan);
    load_tile<6>(panels + kPanel * k, kTileBytes);
    dot_tiles<0, 4, 6>();
    if constexpr (H == 2) load_tile<5>(tile + kTileLines * kSpan + k, kSpan);
    if constexpr (H == 2) dot_tiles<1, 5, 6>();
    if constexpr (P == 2) load_tile<7>(panels + panel_bytes + kPanel * k, kTileBytes);
    if constexpr (P == 2) dot_tiles<2, 4, 7>();
    if constexpr (H == 2 && P == 2) dot_tiles<3, 5, 7>();
  }
  store_tile<0>(sums, kSumBytes);
  if constexpr (H == 2) store_tile<1>(sums + kTileLines * kPanel, kSumBytes);
  if constexpr (P == 2) store_tile<2>(sums + kPanelSums, kSumBytes);
  if constexpr (H == 2 && P == 2) store_tile<3>(sums + kPanelSums + kTileLines * kPanel, kSumBytes);
}

// y += the sums times the span's scales of weights and activations.
template <int P>
void scale_span(const uint8_t* panels, int64_t panel_bytes, const uint8_t* tile, int rows, const int32_t* sums,
                float* y) {
  for (int p = 0; p < P; p++, sums += kPanelSums, y += kPanelSums) {
    const __m512 ws = _mm512_load_ps(panels + p * panel_bytes + kPanel * kSpan);
    for (int r = 0; r < rows; r++) {
      float xs;
      memcpy(&xs, tile + kManyTileRows * kSpan + 4 * r, 4);
      const __m512 scale = _mm512_mul_ps(ws, _mm512_set1_ps(xs)), sum = _mm512_load_ps(y + r * kPanel);
      const __m512 products = _mm512_cvtepi32_ps(_mm512_load_si512(sums + r * kPanel));
      _mm512_store_ps(y + r * kPanel, _mm512_fmadd_ps(products, scale, sum));
    }
  }
}

template <int P, int H>
void many_product(const PackedProduct& job, const uint8_t* panels, int64_t spans, int64_t panel, int64_t m0, int rows) {
  constexpr int64_t kTileSpanBytes = kManyTileRows * kSpanRowBytes;
  alignas(64) int32_t sums[2][2 * kPanelSums];
  alignas(64) float y[2 * kPanelSums] = {};
  const int64_t panel_bytes = spans * kPanelSpanBytes;
  const uint8_t* tile = job.tiles + m0 * spans * kSpanRowBytes;
  for (int r = 0; r < rows; r++) prefetch_outputs<P>(job, panel, m0 + r);
  multiply_span<P, H>(panels, panel_bytes, tile, sums[0]);
  for (int64_t s = 0; s < spans; s++, panels += kPanelSpanBytes, tile += kTileSpanBytes) {
    if (s + 1 < spans)
      multiply_span<P, H>(panels + kPanelSpanBytes, panel_bytes, tile + kTileSpanBytes, sums[(s + 1) % 2]);
    scale_span<P>(panels, panel_bytes, tile, rows, sums[s % 2], y);
  }
  for (int p = 0; p < P; p++)
    for (int r = 0; r < rows; r++)
      store_outputs(job, panel + p, m0 + r, _mm512_load_ps(y + p * kPanelSums + r * kPanel));
}

// P panels times all rows.
template <int P>
void many_panels(const PackedProduct& job, int64_t panel, uint8_t* scratch) {
  const int64_t spans = (job.w.blocks + kSpanBlocks - 1) / kSpanBlocks;
  for (int p = 0; p < P; p++) unpack_panel<0>(job.w, panel + p, scratch + p * spans * kPanelSpanBytes);
  NextPanels next(job, panel + P, P, kManyTileRows);
  for (int64_t m = 0; m < job.m; m += kManyTileRows) {
    next.fetch();
    const int rows = int(job.m - m < kManyTileRows ? job.m - m : kManyTileRows);
    if (rows > kTileLines)
      many_product<P, 2>(job, scratch, spans, panel, m, rows);
    else
      many_product<P, 1>(job, scratch, spans, panel, m, rows);
  }
}

void packed_many(const PackedProduct& job, int64_t begin, int64_t end, uint8_t* scratch) {
  assert(0 <= begin && begin <= end && end <= job.w.panels && job.w.blocks % job.w.groups == 0 && job.w.bits == 4);
  assert(reinterpret_cast<uintptr_t>(scratch) % 64 == 0);
  configure_tiles();
  int64_t panel = begin;
  for (; panel + 2 <= end; panel += 2) many_panels<2>(job, panel, scratch);
  if (panel < end) many_panels<1>(job, panel, scratch);
  release_tiles();
}

const ManyRows kMany = {kManyTileRows, quantize_many, packed_many};

Kernels with_tiles(const char* name) {
  Kernels table = *avx512vnni_kernels();
  table.name = name;
  table.many = &kMany;
  return table;
}

}  // namespace

#ifdef EDGEREASON_EMULATE_TILES
const Kernels* amx_emulated_kernels() {
  static const Kernels table = with_tiles("amx-emulated");
  return &table;
}
#else
const Kernels* amx_kernels() {
  static const Kernels table = with_tiles("amx");
  return &table;
}
#endif

}  // namespace edgereason
