// The sixteen rows of a panel at a time.
#include <assert.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "rounding.h"

namespace edgereason {
namespace {

struct Vec {
  using reg = __m512;
  using ints = __m512i;
  static constexpr int lanes = 16;
  static reg set1(float v) { return _mm512_set1_ps(v); }
  static reg load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, reg v) { _mm512_storeu_ps(p, v); }
  static reg add(reg a, reg b) { return _mm512_add_ps(a, b); }
  static reg sub(reg a, reg b) { return _mm512_sub_ps(a, b); }
  static reg mul(reg a, reg b) { return _mm512_mul_ps(a, b); }
  static reg min(reg a, reg b) { return _mm512_min_ps(a, b); }
  static reg max(reg a, reg b) { return _mm512_max_ps(a, b); }
  static reg abs(reg v) { return _mm512_abs_ps(v); }
  static reg round(reg v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static reg less(reg a, reg b, reg x, reg y) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
  }
  static reg inverse(reg v) {
    return _mm512_maskz_div_ps(_mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_NEQ_UQ), set1(1.f), v);
  }
  static reg half(reg v) { return _mm512_cvtph_ps(_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)); }
  static void store_f16(uint16_t* p, reg v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
  static ints to_ints(reg v) { return _mm512_cvttps_epi32(v); }
  static ints put(ints line, ints v, int bits) { return _mm512_or_si512(line, _mm512_slli_epi32(v, unsigned(bits))); }
  static void store_ints(uint8_t* p, ints v) { _mm512_storeu_si512(p, v); }
};

#include "generic.h"

}  // namespace

bool round_panels_avx512(const Rounding& job, int64_t begin, int64_t end, float* scratch) {
  return round_panels(job, begin, end, scratch);
}

}  // namespace edgereason
