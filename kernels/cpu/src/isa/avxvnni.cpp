// AVX-VNNI: AVX2's register width with the dot product of AVX-512 (Alder Lake and later, Zen 5).
#include <assert.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "rounding/rounding.h"

namespace edgereason {
namespace {

struct Dot {
  static __m256i zero(__m256i start) { return start; }
  static __m256i step(__m256i sum, __m256i w, __m256i x) { return _mm256_dpbusd_avx_epi32(sum, w, x); }
  static __m256i finish(__m256i sum, __m256i) { return sum; }
};

constexpr int kByteOrigin = 0;

template <bool Bytes>
struct DotFor {
  using type = Dot;
};

#include "int8_256.h"
#include "table.h"

constexpr Kernels kTable = table_of("avxvnni", round_panels_avx2);

}  // namespace

const Kernels* avxvnni_kernels() {
  return &kTable;
}

}  // namespace edgereason
