// Eight rows at a time.
#include <assert.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "rounding.h"

namespace edgereason {
namespace {

struct Vec {
  using reg = __m256;
  using ints = __m256i;
  static constexpr int lanes = 8;
  static reg set1(float v) { return _mm256_set1_ps(v); }
  static reg load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, reg v) { _mm256_storeu_ps(p, v); }
  static reg add(reg a, reg b) { return _mm256_add_ps(a, b); }
  static reg sub(reg a, reg b) { return _mm256_sub_ps(a, b); }
  static reg mul(reg a, reg b) { return _mm256_mul_ps(a, b); }
  static reg min(reg a, reg b) { return _mm256_min_ps(a, b); }
  static reg max(reg a, reg b) { return _mm256_max_ps(a, b); }
  static reg abs(reg v) { return _mm256_andnot_ps(set1(-0.f), v); }
  static reg round(reg v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static reg less(reg a, reg b, reg x, reg y) { return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
  static reg inverse(reg v) {
    return _mm256_and_ps(_mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_NEQ_UQ), _mm256_div_ps(set1(1.f), v));
  }
  static reg half(reg v) { return _mm256_cvtph_ps(_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)); }
  static void store_f16(uint16_t* p, reg v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
  static ints to_ints(reg v) { return _mm256_cvttps_epi32(v); }
  static ints put(ints line, ints v, int bits) { return _mm256_or_si256(line, _mm256_slli_epi32(v, bits)); }
  static void store_ints(uint8_t* p, ints v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
};

#include "generic.h"

}  // namespace

bool round_panels_avx2(const Rounding& job, int64_t begin, int64_t end, float* scratch) {
  return round_panels(job, begin, end, scratch);
}

}  // namespace edgereason
