// Packed products with 256-bit registers, shared by AVX2 and AVX-VNNI, which differ in one multiply-and-add.
//
// A unit includes this inside its anonymous namespace after defining
//   DotFor<Bytes>::type  zero(start), step(sum, w, x), finish(sum, start): four products for each of eight rows
//   kByteOrigin          what the dot product of 8-bit weights subtracts from stored bytes by itself
// A panel is two halves of eight rows. With one or two activation rows both halves run together, so that memory is read
// in order; with more, one after the other, because sixteen registers hold the sums of four rows times one half.

struct Vec {
  using reg = __m256;
  static constexpr int lanes = 8, registers = 16;
  static reg zero() { return _mm256_setzero_ps(); }
  static reg set1(float v) { return _mm256_set1_ps(v); }
  static reg load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, reg v) { _mm256_storeu_ps(p, v); }
  static reg load_f16(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static void store_f16(uint16_t* p, reg v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
  static reg load_bf16(const uint16_t* p) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  }
  static reg load_s8(const int8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  static reg add(reg a, reg b) { return _mm256_add_ps(a, b); }
  static reg sub(reg a, reg b) { return _mm256_sub_ps(a, b); }
  static reg mul(reg a, reg b) { return _mm256_mul_ps(a, b); }
  static reg div(reg a, reg b) { return _mm256_div_ps(a, b); }
  static reg fma(reg a, reg b, reg c) { return _mm256_fmadd_ps(a, b, c); }
  static reg max(reg a, reg b) { return _mm256_max_ps(a, b); }
  static float sum(reg v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
  static float highest(reg v) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
  }
  static reg round(reg v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static reg scale(reg v, reg n) {
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23)));
  }
};

#include "generic.h"

constexpr int kTileRows = 4;

void quantize(const float* x, int rows, int64_t columns, int64_t blocks, int32_t factor, uint8_t* tile) {
  assert(0 < rows && rows <= kTileRows && columns <= blocks * kBlock);
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
      __m256 v[4], highest = _mm256_setzero_ps();
      for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_ps(from + 8 * i);
        highest = _mm256_max_ps(highest, _mm256_andnot_ps(_mm256_set1_ps(-0.f), v[i]));
      }
      const float top = Vec::highest(highest);
      const float scale = top / 127.f, inverse = top > 1e-30f ? 127.f / top : 0.f;
      __m256i q[4];
      for (int i = 0; i < 4; i++) q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], _mm256_set1_ps(inverse)));
      // Packing works within 128-bit halves; the permutation puts the groups of four back in order.
      const __m256i bytes = _mm256_permutevar8x32_epi32(
          _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3])),
          _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(tile + r * kBlock), bytes);
      const __m256i total = _mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3]));
      int32_t parts[8], sum = 0;
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(parts), total);
      for (int i = 0; i < 8; i++) sum += parts[i];
      sum *= factor;
      memcpy(tile + rows * kBlock + 4 * r, &scale, 4);
      memcpy(tile + rows * (kBlock + 4) + 4 * r, &sum, 4);
    }
  }
}

__m256i load256(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

__m256i broadcast4(const uint8_t* p) {
  int32_t four;
  memcpy(&four, p, 4);
  return _mm256_set1_epi32(four);
}

// How a panel's bytes are stored: packed nibbles, nibbles unpacked to bytes, or 8-bit weights.
enum class Format { nibbles, unpacked, bytes };

// H halves of a panel, from `half` on, times one tile of R rows.
template <int R, int H, Format F, bool Zeros>
void halves_times_tile(const PackedWeight& w, const uint8_t* q, int64_t panel, int half, const uint8_t* tile,
                       __m256 (&y)[R][H]) {
  using Dot = typename DotFor<F == Format::bytes>::type;
  constexpr int kLines = F == Format::nibbles ? 4 : 8;
  const int64_t per_group = w.blocks / w.groups;
  for (int r = 0; r < R; r++)
    for (int h = 0; h < H; h++) y[r][h] = _mm256_setzero_ps();
  for (int64_t g = 0; g < w.groups; g++) {
    const int64_t group = (panel * w.groups + g) * kPanel + half * 8;
    __m256 ws[H];
    __m256i z[H];
    for (int h = 0; h < H; h++) {
      ws[h] = Vec::load_f16(w.scales + group + 8 * h);
      if constexpr (Zeros) {
        z[h] = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(w.zeros + group + 8 * h)));
        if constexpr (F == Format::bytes) z[h] = _mm256_sub_epi32(z[h], _mm256_set1_epi32(kByteOrigin));
      }
    }
    for (int64_t b = 0; b < per_group; b++, q += kLines * 64, tile += R * kTileRowBytes) {
      if constexpr (R == 1)
        for (int line = 0; line < kLines; line++)
          _mm_prefetch(reinterpret_cast<const char*>(q + line * 64 + 4096), _MM_HINT_T0);
      __m256i start[R][H], dots[R][H];
      for (int r = 0; r < R; r++)
        for (int h = 0; h < H; h++) {
          start[r][h] = broadcast4(tile + R * (kBlock + 4) + 4 * r);
          if constexpr (Zeros) start[r][h] = _mm256_mullo_epi32(start[r][h], z[h]);
          dots[r][h] = Dot::zero(start[r][h]);
        }
// Unrolled in full, GCC moves all products before the sums and spills them.
#pragma GCC unroll 2
      for (int i = 0; i < kLines; i++)
        for (int h = 0; h < H; h++) {
          const __m256i line = load256(q + 64 * i + 32 * (half + h));
          if constexpr (F == Format::nibbles) {
            const __m256i mask = _mm256_set1_epi8(15);
            const __m256i low = _mm256_and_si256(line, mask), high = _mm256_and_si256(_mm256_srli_epi16(line, 4), mask);
            for (int r = 0; r < R; r++) {
              dots[r][h] = Dot::step(dots[r][h], low, broadcast4(tile + r * kBlock + 8 * i));
              dots[r][h] = Dot::step(dots[r][h], high, broadcast4(tile + r * kBlock + 8 * i + 4));
            }
          } else {
            for (int r = 0; r < R; r++) dots[r][h] = Dot::step(dots[r][h], line, broadcast4(tile + r * kBlock + 4 * i));
          }
        }
      for (int r = 0; r < R; r++) {
        float xs;
        memcpy(&xs, tile + R * kBlock + 4 * r, 4);
        for (int h = 0; h < H; h++) {
          const __m256 dot = _mm256_cvtepi32_ps(Dot::finish(dots[r][h], start[r][h]));
          y[r][h] = _mm256_fmadd_ps(dot, _mm256_mul_ps(ws[h], _mm256_set1_ps(xs)), y[r][h]);
        }
      }
    }
  }
}

// Writes the eight outputs n0 .. n0 + 7 of a row, or those of them that exist.
void store_outputs(const PackedProduct& job, int64_t m, int64_t n0, __m256 y) {
  const int64_t rows = job.w.rows;
  float* to = job.y + m * rows + n0;
  const float* add = job.add ? job.add + m * job.add_stride + n0 : nullptr;
  if (rows - n0 >= 8) return _mm256_storeu_ps(to, add ? _mm256_add_ps(y, _mm256_loadu_ps(add)) : y);
  float values[8];
  _mm256_storeu_ps(values, y);
  for (int64_t i = 0; i < rows - n0; i++) to[i] = add ? values[i] + add[i] : values[i];
}

template <int R, Format F, bool Zeros>
void product(const PackedProduct& job, const uint8_t* q, int64_t panel, int64_t m0) {
  constexpr int kHalves = R <= 2 ? 2 : 1;
  const uint8_t* tile = job.tiles + m0 * job.w.blocks * kTileRowBytes;
  for (int half = 0; half < 2; half += kHalves) {
    __m256 y[R][kHalves];
    halves_times_tile<R, kHalves, F, Zeros>(job.w, q, panel, half, tile, y);
    for (int r = 0; r < R; r++)
      for (int h = 0; h < kHalves; h++) store_outputs(job, m0 + r, panel * kPanel + 8 * (half + h), y[r][h]);
  }
}

template <Format F, bool Zeros>
void panel_times_rows(const PackedProduct& job, const uint8_t* q, int64_t panel) {
  int64_t m = 0;
  for (; m + kTileRows <= job.m; m += kTileRows) product<kTileRows, F, Zeros>(job, q, panel, m);
  switch (job.m - m) {
    case 3:
      return product<3, F, Zeros>(job, q, panel, m);
    case 2:
      return product<2, F, Zeros>(job, q, panel, m);
    case 1:
      return product<1, F, Zeros>(job, q, panel, m);
  }
}

template <bool Zeros>
void packed_typed(const PackedProduct& job, int64_t begin, int64_t end, uint8_t* scratch) {
  const int64_t blocks = job.w.blocks, panel_bytes = blocks * kPanel * kBlock * job.w.bits / 8;
  const __m256i mask = _mm256_set1_epi8(15);
  for (int64_t panel = begin; panel < end; panel++) {
    const uint8_t* q = job.w.qweight + panel * panel_bytes;
    if (job.w.bits == 8) {
      panel_times_rows<Format::bytes, Zeros>(job, q, panel);
    } else if (job.m <= kTileRows) {
      panel_times_rows<Format::nibbles, Zeros>(job, q, panel);
    } else {  // unpacked once into L1 or L2 for all tiles
      for (int64_t i = 0; i < blocks * 4; i++)
        for (int h = 0; h < 64; h += 32) {
          const __m256i line = load256(q + 64 * i + h);
          auto* to = reinterpret_cast<__m256i*>(scratch + 128 * i + h);
          _mm256_store_si256(to, _mm256_and_si256(line, mask));
          _mm256_store_si256(to + 2, _mm256_and_si256(_mm256_srli_epi16(line, 4), mask));
        }
      panel_times_rows<Format::unpacked, Zeros>(job, scratch, panel);
    }
  }
}

void packed(const PackedProduct& job, int64_t begin, int64_t end, uint8_t* scratch) {
  assert(0 <= begin && begin <= end && end <= job.w.panels && job.w.blocks % job.w.groups == 0);
  assert(reinterpret_cast<uintptr_t>(scratch) % 64 == 0);
  job.w.zeros ? packed_typed<true>(job, begin, end, scratch) : packed_typed<false>(job, begin, end, scratch);
}
