// AVX2 without dot-product instructions: vpmaddubsw adds pairs of u8 * s8 products in 16 bits, with saturation.
#include <assert.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "rounding/rounding.h"

namespace edgereason {
namespace {

// Weights below 16: a block's 32 products per row fall into two 16-bit lanes, 16 * 15 * 127 = 30480 at most, so that
// the whole block is summed in 16 bits and widened once.
struct NibbleDot {
  static __m256i zero(__m256i) { return _mm256_setzero_si256(); }
  static __m256i step(__m256i sum, __m256i w, __m256i x) { return _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, x)); }
  static __m256i finish(__m256i sum, __m256i start) {
    return _mm256_add_epi32(start, _mm256_madd_epi16(sum, _mm256_set1_epi16(1)));
  }
};

// Weights of 8 bits would saturate as unsigned (2 * 255 * 127), so they become signed: |w - 128| times x with the sign
// of w - 128, 2 * 128 * 127 = 32512 at most.
struct ByteDot {
  static __m256i zero(__m256i start) { return start; }
  static __m256i step(__m256i sum, __m256i w, __m256i x) {
    const __m256i s = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(s), _mm256_sign_epi8(x, s));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  static __m256i finish(__m256i sum, __m256i) { return sum; }
};

constexpr int kByteOrigin = 128;

template <bool Bytes>
struct DotFor {
  using type = NibbleDot;
};
template <>
struct DotFor<true> {
  using type = ByteDot;
};

#include "int8_256.h"
#include "table.h"

constexpr Kernels kTable = table_of("avx2", round_panels_avx2);

}  // namespace

const Kernels* avx2_kernels() {
  return &kTable;
}

}  // namespace edgereason
