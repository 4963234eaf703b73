// Weights and activations of many rows brought to spans of 128 inputs, with AVX-512: see ManyRows in kernels.h.
//
// AVX-512 VNNI and AMX include this inside their anonymous namespaces, after <immintrin.h>, <string.h> and "kernels.h".
// The former multiplies unsigned weights, w8 + 128, the latter w8: their Origin.

// Of a group: t = q b + start has w8 + Origin in its upper byte. Words of 16 bits, two for each row, since a line has
// four bytes of each.
struct Regrouping {
  __m512i b, start;
};

__m512 group_scales(const PackedWeight& w, int64_t index) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w.scales + index)));
}

__m512i group_zeros(const PackedWeight& w, int64_t index) {
  if (!w.zeros) return _mm512_set1_epi32(8);
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w.zeros + index)));
}

// |scale| d
__m512 group_range(const PackedWeight& w, int64_t index) {
  const __m512i zeros = group_zeros(w, index),
                d = _mm512_max_epi32(zeros, _mm512_sub_epi32(_mm512_set1_epi32(15), zeros));
  return _mm512_mul_ps(_mm512_abs_ps(group_scales(w, index)), _mm512_cvtepi32_ps(d));
}

// `inverse`: kReach / s
template <int Origin>
Regrouping regroup(const PackedWeight& w, int64_t index, __m512 inverse) {
  const __m512i b = _mm512_cvtps_epi32(_mm512_mul_ps(group_scales(w, index), inverse));
  const __m512i start =
      _mm512_sub_epi32(_mm512_set1_epi32(Origin * 256 + 128), _mm512_mullo_epi32(b, group_zeros(w, index)));
  const auto twice = [](__m512i v) {
    return _mm512_or_si512(_mm512_and_si512(v, _mm512_set1_epi32(0xffff)), _mm512_slli_epi32(v, 16));
  };
  return {twice(b), twice(start)};
}

// A line of bytes from the words with its even and its odd bytes' q.
__m512i regrouped_line(const Regrouping& g, __m512i even, __m512i odd) {
  even = _mm512_add_epi16(_mm512_mullo_epi16(even, g.b), g.start);
  odd = _mm512_add_epi16(_mm512_mullo_epi16(odd, g.b), g.start);
  return _mm512_mask_mov_epi8(odd, 0x5555555555555555, _mm512_srli_epi16(even, 8));
}

void unpack_block(const uint8_t* block, const Regrouping& g, uint8_t* to) {
  const __m512i nibble = _mm512_set1_epi16(15);
  for (int i = 0; i < 4; i++, to += 128) {
    const __m512i q = _mm512_loadu_si512(block + 64 * i);
    const auto words = [&](int shift) { return _mm512_and_si512(_mm512_srli_epi16(q, unsigned(shift)), nibble); };
    _mm512_store_si512(to, regrouped_line(g, words(0), words(8)));
    _mm512_store_si512(to + 64, regrouped_line(g, words(4), words(12)));
  }
}

// One panel into `to`, kPanelSpanBytes for each span, as w8 + Origin. Blocks beyond the last are zero.
template <int Origin>
void unpack_panel(const PackedWeight& w, int64_t panel, uint8_t* to) {
  constexpr int kBlockBytes = 256;
  const int64_t per_group = w.blocks / w.groups, first_group = panel * w.groups;
  const uint8_t* q = w.qweight + panel * w.blocks * kBlockBytes;
  for (int64_t first = 0; first < w.blocks; first += kSpanBlocks, to += kPanelSpanBytes) {
    const int64_t last = first + kSpanBlocks < w.blocks ? first + kSpanBlocks : w.blocks;
    __m512 s = _mm512_setzero_ps();
    for (int64_t g = first / per_group; g <= (last - 1) / per_group; g++)
      s = _mm512_max_ps(s, group_range(w, (first_group + g) * kPanel));
    const __mmask16 some = _mm512_cmp_ps_mask(s, _mm512_setzero_ps(), _CMP_GT_OQ);
    const __m512 inverse = _mm512_maskz_div_ps(some, _mm512_set1_ps(kReach), s);
    Regrouping g{};
    for (int64_t b = first; b < last; b++) {
      if (b == first || b % per_group == 0) g = regroup<Origin>(w, (first_group + b / per_group) * kPanel, inverse);
      unpack_block(q + b * kBlockBytes, g, to + (b - first) * kPanel * kBlock);
    }
    memset(to + (last - first) * kPanel * kBlock, Origin, size_t(kSpanBlocks - (last - first)) * kPanel * kBlock);
    _mm512_store_ps(to + kPanel * kSpan, _mm512_mul_ps(s, _mm512_set1_ps(1.f / 120)));
  }
}

// A tile of `tile_rows` rows as kernels.h lays it out. Row by row, so that x is read in order.
void quantize_spans(const float* x, int rows, int tile_rows, int64_t columns, int64_t spans, uint8_t* tile) {
  constexpr int kVectors = kSpan / 16;
  for (int r = 0; r < rows; r++, x += columns)
    for (int64_t s = 0; s < spans; s++) {
      uint8_t* to = tile + s * tile_rows * kSpanRowBytes;
      const int64_t left = columns - s * kSpan;
      __m512 v[kVectors], highest = _mm512_setzero_ps();
      for (int i = 0; i < kVectors; i++) {
        const int64_t lanes = left - 16 * i;
        const __mmask16 mask = lanes >= 16 ? __mmask16(0xffff) : __mmask16((1 << (lanes > 0 ? lanes : 0)) - 1);
        v[i] = _mm512_maskz_loadu_ps(mask, x + s * kSpan + 16 * i);
        highest = _mm512_max_ps(highest, _mm512_abs_ps(v[i]));
      }
      const float top = _mm512_reduce_max_ps(highest);
      const float scale = top / 127.f, inverse = top > 1e-30f ? 127.f / top : 0.f;
      __m512i sums = _mm512_setzero_si512();
      for (int i = 0; i < kVectors; i++) {
        const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(v[i], _mm512_set1_ps(inverse)));
        sums = _mm512_add_epi32(sums, q);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + r * kSpan + 16 * i), _mm512_cvtsepi32_epi8(q));
      }
      const int32_t start = -128 * _mm512_reduce_add_epi32(sums);
      memcpy(to + tile_rows * kSpan + 4 * r, &scale, 4);
      memcpy(to + tile_rows * (kSpan + 4) + 4 * r, &start, 4);
    }
}

// ---- outputs, and what comes next -----------------------------------------------------------------------------------

void store_outputs(const PackedProduct& job, int64_t panel, int64_t m, __m512 y) {
  const int64_t n0 = panel * kPanel, left = job.w.rows - n0;
  const __mmask16 mask = left >= kPanel ? __mmask16(0xffff) : __mmask16((1 << left) - 1);
  if (job.add) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, job.add + m * job.add_stride + n0));
  _mm512_mask_storeu_ps(job.y + m * job.w.rows + n0, mask, y);
}

void prefetch_to_write(const char* line) {
#ifdef _MSC_VER
  _m_prefetchw(line);
#else
  __builtin_prefetch(line, 1);
#endif
}

// Asks for the lines of row m that P panels will write: outputs are larger than the caches, and stores that miss wait
// for each other.
template <int P>
void prefetch_outputs(const PackedProduct& job, int64_t panel, int64_t m) {
  const auto* line = reinterpret_cast<const char*>(job.y + m * job.w.rows + panel * kPanel);
  for (int i = 0; i < P; i++) prefetch_to_write(line + 64 * i);
  prefetch_to_write(line + 64 * P - 1);  // the last value's, where a row is not aligned
}

// Fetches the stored bytes of the next panels, some lines for each tile of activations.
class NextPanels {
 public:
  NextPanels(const PackedProduct& job, int64_t panel, int64_t count, int tile_rows) {
    const int64_t bytes = job.w.blocks * kPanel * kBlock / 2;
    at_ = job.w.qweight + panel * bytes;
    share_ = (count * bytes * tile_rows / job.m + 63) / 64 * 64;
  }

  void fetch() {
    for (const uint8_t* end = at_ + share_; at_ < end; at_ += 64)
      _mm_prefetch(reinterpret_cast<const char*>(at_), _MM_HINT_T1);
  }

 private:
  const uint8_t* at_;
  int64_t share_;
};
