// ARMv8.2 with dot products (Cortex-A75 and later, Apple A11 and later; optional before ARMv8.4): sdot adds four s8 *
// s8 products to each of four sums.
#include <arm_neon.h>
#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "rounding/rounding.h"

namespace edgereason {
namespace {

using Weights = int8x16_t;

constexpr int kByteOrigin = 128;

Weights from_bytes(uint8x16_t bytes) {
  return vreinterpretq_s8_u8(veorq_u8(bytes, vdupq_n_u8(128)));
}

Weights from_nibbles(uint8x16_t nibbles) {
  return vreinterpretq_s8_u8(nibbles);
}

template <int L>
int32x4_t dot(int32x4_t sum, Weights w, int8x16_t x) {
  return vdotq_laneq_s32(sum, w, x, L);
}

void store_row(int8_t* tile, int r, int, int8x16_t q0, int8x16_t q1) {
  vst1q_s8(tile + r * kBlock, q0);
  vst1q_s8(tile + r * kBlock + 16, q1);
}

#include "int8_neon.h"

// Four rows times half a panel: 8 integer chains, 8 float sums, 4 registers of activations.
constexpr int kTileRows = 4;

// Prepared: signed bytes in the order of 8-bit weights.
template <>
EightInputs load_eight<Format::prepared>(const uint8_t* block, int i, int quarter) {
  const auto* lines = reinterpret_cast<const int8_t*>(block) + 128 * i + 16 * quarter;
  return {vld1q_s8(lines), vld1q_s8(lines + 64)};
}

template <Format F>
void prepare(const uint8_t* q, int64_t blocks, uint8_t* scratch) {
  for (int64_t b = 0; b < blocks; b++, q += kBlockBytes<F>, scratch += 512)
    for (int i = 0; i < 4; i++)
      for (int quarter = 0; quarter < 4; quarter++) {
        const EightInputs w = load_eight<F>(q, i, quarter);
        auto* to = reinterpret_cast<int8_t*>(scratch) + 128 * i + 16 * quarter;
        vst1q_s8(to, w.first);
        vst1q_s8(to + 64, w.second);
      }
}

template <Format F, bool Zeros>
void panel_times_rows(const PackedProduct& job, const uint8_t* q, int64_t panel) {
  int64_t m = 0;
  for (; m + kTileRows <= job.m; m += kTileRows) dot_product<kTileRows, F, Zeros>(job, q, panel, m);
  switch (job.m - m) {
    case 3:
      return dot_product<3, F, Zeros>(job, q, panel, m);
    case 2:
      return dot_product<2, F, Zeros>(job, q, panel, m);
    case 1:
      return dot_product<1, F, Zeros>(job, q, panel, m);
  }
}

template <Format F, bool Zeros>
void packed_typed(const PackedProduct& job, int64_t begin, int64_t end, uint8_t* scratch) {
  const int64_t blocks = job.w.blocks;
  for (int64_t panel = begin; panel < end; panel++) {
    const uint8_t* q = job.w.qweight + panel * blocks * kBlockBytes<F>;
    if (job.m <= kTileRows) {
      panel_times_rows<F, Zeros>(job, q, panel);
    } else {  // prepared once into L1 or L2 for all tiles
      prepare<F>(q, blocks, scratch);
      panel_times_rows<Format::prepared, Zeros>(job, scratch, panel);
    }
  }
}

void packed(const PackedProduct& job, int64_t begin, int64_t end, uint8_t* scratch) {
  assert(0 <= begin && begin <= end && end <= job.w.panels && job.w.blocks % job.w.groups == 0);
  if (job.w.bits == 4)
    job.w.zeros ? packed_typed<Format::nibbles, true>(job, begin, end, scratch)
                : packed_typed<Format::nibbles, false>(job, begin, end, scratch);
  else
    job.w.zeros ? packed_typed<Format::bytes, true>(job, begin, end, scratch)
                : packed_typed<Format::bytes, false>(job, begin, end, scratch);
}

#include "table.h"

constexpr Kernels kTable = table_of("neon", round_panels_neon);

}  // namespace

const Kernels* neon_kernels() {
  return &kTable;
}

}  // namespace edgereason
