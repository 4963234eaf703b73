// The reference: one row at a time, in plain C++.
#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "rounding.h"

namespace edgereason {
namespace {

#include "isa/half.h"

struct Vec {
  using reg = float;
  using ints = uint32_t;
  static constexpr int lanes = 1;
  static reg set1(float v) { return v; }
  static reg load(const float* p) { return *p; }
  static void store(float* p, reg v) { *p = v; }
  static reg add(reg a, reg b) { return a + b; }
  static reg sub(reg a, reg b) { return a - b; }
  static reg mul(reg a, reg b) { return a * b; }
  static reg min(reg a, reg b) { return a < b ? a : b; }
  static reg max(reg a, reg b) { return a > b ? a : b; }
  static reg abs(reg v) { return fabsf(v); }
  static reg round(reg v) { return nearbyintf(v); }
  static reg less(reg a, reg b, reg x, reg y) { return a < b ? x : y; }
  static reg inverse(reg v) { return v != 0 ? 1 / v : 0; }
  static reg half(reg v) { return from_f16(to_f16(v)); }
  static void store_f16(uint16_t* p, reg v) { *p = to_f16(v); }
  static ints to_ints(reg v) { return uint32_t(v); }
  static ints put(ints line, ints v, int bits) { return line | v << bits; }
  static void store_ints(uint8_t* p, ints v) { memcpy(p, &v, sizeof v); }
};

#include "generic.h"

}  // namespace

bool round_panels_scalar(const Rounding& job, int64_t begin, int64_t end, float* scratch) {
  return round_panels(job, begin, end, scratch);
}

}  // namespace edgereason
