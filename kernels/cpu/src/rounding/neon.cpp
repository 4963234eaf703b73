// Four rows at a time.
#include <arm_neon.h>
#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "rounding.h"

namespace edgereason {
namespace {

struct Vec {
  using reg = float32x4_t;
  using ints = uint32x4_t;
  static constexpr int lanes = 4;
  static reg set1(float v) { return vdupq_n_f32(v); }
  static reg load(const float* p) { return vld1q_f32(p); }
  static void store(float* p, reg v) { vst1q_f32(p, v); }
  static reg add(reg a, reg b) { return vaddq_f32(a, b); }
  static reg sub(reg a, reg b) { return vsubq_f32(a, b); }
  static reg mul(reg a, reg b) { return vmulq_f32(a, b); }
  static reg min(reg a, reg b) { return vminnmq_f32(a, b); }
  static reg max(reg a, reg b) { return vmaxnmq_f32(a, b); }
  static reg abs(reg v) { return vabsq_f32(v); }
  static reg round(reg v) { return vrndnq_f32(v); }
  static reg less(reg a, reg b, reg x, reg y) { return vbslq_f32(vcltq_f32(a, b), x, y); }
  static reg inverse(reg v) {
    const uint32x4_t zero = vceqzq_f32(v);
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(vdivq_f32(set1(1.f), v)), zero));
  }
  static reg half(reg v) { return vcvt_f32_f16(vcvt_f16_f32(v)); }
  static void store_f16(uint16_t* p, reg v) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(v))); }
  static ints to_ints(reg v) { return vcvtq_u32_f32(v); }
  static ints put(ints line, ints v, int bits) { return vorrq_u32(line, vshlq_u32(v, vdupq_n_s32(bits))); }
  static void store_ints(uint8_t* p, ints v) { vst1q_u8(p, vreinterpretq_u8_u32(v)); }
};

#include "generic.h"

}  // namespace

bool round_panels_neon(const Rounding& job, int64_t begin, int64_t end, float* scratch) {
  return round_panels(job, begin, end, scratch);
}

}  // namespace edgereason
