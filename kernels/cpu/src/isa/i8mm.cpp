// ARM with FEAT_I8MM (Neoverse V1 and N2, Cortex-A510 and A710, Apple M2 and later): usmmla multiplies a 2 x 8 block of
// u8 weights with an 8 x 2 block of s8 activations, twice the products of a dot product.
//
// A line of a panel holds four inputs of each row, the next four lie in the high nibbles or the next line. Zipping the
// two by 32 bits gives eight inputs of two rows: one instruction for each operand, none when the panel is prepared for
// many rows. The activations come in pairs of rows, so that each 16 bytes of a tile are an operand.
#include <arm_neon.h>
#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "rounding/rounding.h"

namespace edgereason {
namespace {

using Weights = uint8x16_t;

constexpr int kByteOrigin = 0;

Weights from_bytes(uint8x16_t bytes) {
  return bytes;
}

Weights from_nibbles(uint8x16_t nibbles) {
  return nibbles;
}

template <int L>
int32x4_t dot(int32x4_t sum, Weights w, int8x16_t x) {
  return vusdotq_laneq_s32(sum, w, x, L);
}

// Rows 2p and 2p + 1 alternate every 8 bytes; a last row without a partner stands alone.
void store_row(int8_t* tile, int r, int rows, int8x16_t q0, int8x16_t q1) {
  const bool paired = r % 2 || r + 1 < rows;
  int8_t* to = tile + r / 2 * 2 * kBlock + r % 2 * 8;
  const int step = paired ? 16 : 8;
  vst1_s8(to, vget_low_s8(q0));
  vst1_s8(to + step, vget_high_s8(q0));
  vst1_s8(to + 2 * step, vget_low_s8(q1));
  vst1_s8(to + 3 * step, vget_high_s8(q1));
}

#include "int8_neon.h"

// Six rows times half a panel: 12 integer chains, 12 float sums, 3 registers of activations.
constexpr int kTileRows = 6;
constexpr int kHalf = 4;  // pairs of output rows in half a panel

struct TwoPairs {  // eight inputs of rows 0 and 1, and of rows 2 and 3
  Weights first, second;
};

TwoPairs zip(EightInputs w) {
  const uint32x4_t a = vreinterpretq_u32_u8(w.first), b = vreinterpretq_u32_u8(w.second);
  return {vreinterpretq_u8_u32(vzip1q_u32(a, b)), vreinterpretq_u8_u32(vzip2q_u32(a, b))};
}

// Inputs 8i .. 8i + 7 of four rows. Prepared: the operands of half a panel stand together, in the order of their use.
template <Format F>
TwoPairs load_pairs(const uint8_t* block, int i, int quarter) {
  if constexpr (F == Format::prepared) {
    const uint8_t* p = block + 256 * (quarter / 2) + 64 * i + 32 * (quarter % 2);
    return {vld1q_u8(p), vld1q_u8(p + 16)};
  } else {
    return zip(load_eight<F>(block, i, quarter));
  }
}

template <Format F>
void prepare(const uint8_t* q, int64_t blocks, uint8_t* scratch) {
  for (int64_t b = 0; b < blocks; b++, q += kBlockBytes<F>)
    for (int half = 0; half < 2; half++)
      for (int i = 0; i < 4; i++)
        for (int quarter = 2 * half; quarter < 2 * half + 2; quarter++, scratch += 32) {
          const TwoPairs w = load_pairs<F>(q, i, quarter);
          vst1q_u8(scratch, w.first);
          vst1q_u8(scratch + 16, w.second);
        }
}

// The scales or sums of two rows of a tile, as [a, b, a, b]; [a, a, a, a] where a last row has no partner.
float32x4_t load_two(const uint8_t* p, bool single) {
  const auto* values = reinterpret_cast<const float*>(p);
  if (single) return vld1q_dup_f32(values);
  const float32x2_t two = vld1_f32(values);
  return vcombine_f32(two, two);
}

// Inputs 8i .. 8i + 7 of two rows of a tile, or of a single one twice.
int8x16_t load_activations(const uint8_t* rows, int i, bool single) {
  const auto* x = reinterpret_cast<const int8_t*>(rows);
  if (!single) return vld1q_s8(x + 16 * i);
  const int8x8_t eight = vld1_s8(x + 8 * i);
  return vcombine_s8(eight, eight);
}

// Half a panel times one tile of R rows. Each sum is a 2 x 2 block: output row n with activation rows m and m + 1, then
// output row n + 1 with both.
template <int R, Format F, bool Zeros>
void half_times_tile(const PackedWeight& w, const uint8_t* q, int64_t panel, int half, const uint8_t* tile,
                     float32x4_t (&y)[(R + 1) / 2][kHalf]) {
  constexpr int kPairs = (R + 1) / 2;
  const auto single = [](int pair) { return 2 * pair + 1 == R; };  // known when the loops are unrolled
  const int64_t per_group = w.blocks / w.groups;
  for (int p = 0; p < kPairs; p++)
    for (int n = 0; n < kHalf; n++) y[p][n] = vdupq_n_f32(0);
  for (int64_t g = 0; g < w.groups; g++) {
    const int64_t group = (panel * w.groups + g) * kPanel + 8 * half;
    float32x4_t ws[kHalf];
    int32x4_t z[kHalf];
    for (int n = 0; n < kHalf; n += 2) {
      const float32x4_t scales = Vec::load_f16(w.scales + group + 2 * n);
      ws[n] = vzip1q_f32(scales, scales);
      ws[n + 1] = vzip2q_f32(scales, scales);
      if constexpr (Zeros) {
        const int32x4_t zeros = load_zeros(w.zeros + group + 2 * n, w.bits);
        z[n] = vzip1q_s32(zeros, zeros);
        z[n + 1] = vzip2q_s32(zeros, zeros);
      }
    }
    for (int64_t b = 0; b < per_group; b++, q += kBlockBytes<F>, tile += R * kTileRowBytes) {
      int32x4_t dots[kPairs][kHalf];
      for (int p = 0; p < kPairs; p++) {
        const int32x4_t sums = vreinterpretq_s32_f32(load_two(tile + R * (kBlock + 4) + 8 * p, single(p)));
        for (int n = 0; n < kHalf; n++) {
          dots[p][n] = sums;
          if constexpr (Zeros) dots[p][n] = vmulq_s32(sums, z[n]);
        }
      }
// Unrolled in full, GCC moves the loads before the products and spills the sums.
#pragma GCC unroll 1
      for (int i = 0; i < 4; i++) {
        int8x16_t x[kPairs];
        for (int p = 0; p < kPairs; p++) x[p] = load_activations(tile + 2 * kBlock * p, i, single(p));
        for (int n = 0; n < kHalf; n += 2) {
          const TwoPairs pairs = load_pairs<F>(q, i, 2 * half + n / 2);
          for (int p = 0; p < kPairs; p++) {
            dots[p][n] = vusmmlaq_s32(dots[p][n], pairs.first, x[p]);
            dots[p][n + 1] = vusmmlaq_s32(dots[p][n + 1], pairs.second, x[p]);
          }
        }
      }
      for (int p = 0; p < kPairs; p++) {
        const float32x4_t xs = load_two(tile + R * kBlock + 8 * p, single(p));
        for (int n = 0; n < kHalf; n++) y[p][n] = vfmaq_f32(y[p][n], vcvtq_f32_s32(dots[p][n]), vmulq_f32(ws[n], xs));
      }
    }
  }
}

template <int R, Format F, bool Zeros>
void matrix_product(const PackedProduct& job, const uint8_t* q, int64_t panel, int64_t m0) {
  const uint8_t* tile = job.tiles + m0 * job.w.blocks * kTileRowBytes;
  for (int half = 0; half < 2; half++) {
    float32x4_t y[(R + 1) / 2][kHalf];
    half_times_tile<R, F, Zeros>(job.w, q, panel, half, tile, y);
    for (int r = 0; r < R; r++)
      for (int n = 0; n < kHalf; n += 2) {
        const float32x4_t a = y[r / 2][n], b = y[r / 2][n + 1];
        store_outputs(job, m0 + r, panel * kPanel + 8 * half + 2 * n, r % 2 ? vuzp2q_f32(a, b) : vuzp1q_f32(a, b));
      }
  }
}

// Rows from m on, at most one tile.
template <Format F, bool Zeros>
void panel_times_rest(const PackedProduct& job, const uint8_t* q, int64_t panel, int64_t m) {
  switch (job.m - m) {
    case 6:
      return matrix_product<6, F, Zeros>(job, q, panel, m);
    case 5:
      return matrix_product<5, F, Zeros>(job, q, panel, m);
    case 4:
      return matrix_product<4, F, Zeros>(job, q, panel, m);
    case 3:
      return matrix_product<3, F, Zeros>(job, q, panel, m);
    case 2:
      return matrix_product<2, F, Zeros>(job, q, panel, m);
  }
}

template <Format F, bool Zeros>
void packed_typed(const PackedProduct& job, int64_t begin, int64_t end, uint8_t* scratch) {
  const int64_t blocks = job.w.blocks, full = job.m / kTileRows * kTileRows;
  for (int64_t panel = begin; panel < end; panel++) {
    const uint8_t* q = job.w.qweight + panel * blocks * kBlockBytes<F>;
    if (job.m <= kTileRows) {
      panel_times_rest<F, Zeros>(job, q, panel, 0);
    } else {  // prepared once into L1 or L2 for all tiles
      prepare<F>(q, blocks, scratch);
      for (int64_t m = 0; m < full; m += kTileRows)
        matrix_product<kTileRows, Format::prepared, Zeros>(job, scratch, panel, m);
      panel_times_rest<Format::prepared, Zeros>(job, scratch, panel, full);
    }
    if (job.m - full == 1) dot_product<1, F, Zeros>(job, q, panel, full);  // half of the matrix product would be lost
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

constexpr Kernels kTable = table_of("i8mm", round_panels_neon);

}  // namespace

const Kernels* i8mm_kernels() {
  return &kTable;
}

}  // namespace edgereason
