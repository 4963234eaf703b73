// The float operations, written once over the vector type `Vec` of an instruction set.
//
// A unit includes this inside its anonymous namespace after defining `Vec`:
//   reg, lanes, registers; zero, set1, load, store, load_f16, store_f16, load_bf16, load_s8; add, sub, mul, div, fma (a
//   * b + c), max; sum and highest over the lanes; round, and scale (v 2^n) for exp.
// and <assert.h>, <math.h>, <string.h> and "kernels.h" outside of it. Debug builds assert that indices are in bounds.

#include "half.h"

using reg = Vec::reg;
constexpr int kLanes = Vec::lanes;

float from_bf16(uint16_t b) {
  const uint32_t bits = uint32_t(b) << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

template <Type T>
struct Elements;
template <>
struct Elements<Type::f32> {
  using type = float;
  static reg load(const float* p) { return Vec::load(p); }
  static void store(float* p, reg v) { Vec::store(p, v); }
  static float get(float v) { return v; }
  static float put(float v) { return v; }
};
template <>
struct Elements<Type::f16> {
  using type = uint16_t;
  static reg load(const uint16_t* p) { return Vec::load_f16(p); }
  static void store(uint16_t* p, reg v) { Vec::store_f16(p, v); }
  static float get(uint16_t v) { return from_f16(v); }
  static uint16_t put(float v) { return to_f16(v); }
};
template <>
struct Elements<Type::s8> {
  using type = int8_t;
  static reg load(const int8_t* p) { return Vec::load_s8(p); }
  static float get(int8_t v) { return v; }
};
template <>
struct Elements<Type::bf16> {
  using type = uint16_t;
  static reg load(const uint16_t* p) { return Vec::load_bf16(p); }
  static float get(uint16_t v) { return from_bf16(v); }
};

// e^x to 2 ulp for |x| < 87, clamped beyond: x = n ln 2 + r, |r| <= 0.35, where the Taylor series of degree 7 is
// exact to 5e-9. ln 2 in two parts, so that n ln 2 is exact.
reg exponential(reg x) {
  x = Vec::max(Vec::sub(Vec::zero(), Vec::max(Vec::sub(Vec::zero(), x), Vec::set1(-87.f))), Vec::set1(-87.f));
  const reg n = Vec::round(Vec::mul(x, Vec::set1(1.44269504f)));
  reg r = Vec::fma(n, Vec::set1(-0.693359375f), x);
  r = Vec::fma(n, Vec::set1(2.12194440e-4f), r);
  constexpr float kSeries[] = {1.f / 720, 1.f / 120, 1.f / 24, 1.f / 6, 1.f / 2, 1.f, 1.f};
  reg p = Vec::set1(1.f / 5040);
  for (int i = 0; i < 7; i++) p = Vec::fma(p, r, Vec::set1(kSeries[i]));
  return Vec::scale(p, n);
}

// ---- linear with float weights -------------------------------------------------------------------------------------

// RN output rows against RM rows of x: RN * RM sums in registers, every load used RM or RN times.
template <Type T, int RN, int RM>
void dense_tile(const DenseProduct& job, int64_t n0, int64_t m0) {
  using E = Elements<T>;
  const int64_t columns = job.w.columns;
  const auto* w = static_cast<const typename E::type*>(job.w.data) + n0 * columns;
  const float* x = job.x + m0 * columns;
  reg sums[RN][RM];
  for (int n = 0; n < RN; n++)
    for (int m = 0; m < RM; m++) sums[n][m] = Vec::zero();
  int64_t k = 0;
  for (; k + kLanes <= columns; k += kLanes) {
    reg xs[RM];
    for (int m = 0; m < RM; m++) xs[m] = Vec::load(x + m * columns + k);
    for (int n = 0; n < RN; n++) {
      const reg row = E::load(w + n * columns + k);
      for (int m = 0; m < RM; m++) sums[n][m] = Vec::fma(row, xs[m], sums[n][m]);
    }
  }
  for (int m = 0; m < RM; m++) {
    float* y = job.y + (m0 + m) * job.w.rows + n0;
    const float* add = job.add ? job.add + (m0 + m) * job.add_stride + n0 : nullptr;
    for (int n = 0; n < RN; n++) {
      float sum = Vec::sum(sums[n][m]);
      for (int64_t tail = k; tail < columns; tail++) sum += E::get(w[n * columns + tail]) * x[m * columns + tail];
      y[n] = add ? sum + add[n] : sum;
    }
  }
}

template <Type T, int RN>
void dense_rows(const DenseProduct& job, int64_t n) {
  constexpr int kRows = Vec::registers >= 32 ? 4 : 2;
  int64_t m = 0;
  for (; m + kRows <= job.m; m += kRows) dense_tile<T, RN, kRows>(job, n, m);
  for (; m < job.m; m++) dense_tile<T, RN, 1>(job, n, m);
}

template <Type T>
void dense_typed(const DenseProduct& job, int64_t begin, int64_t end) {
  int64_t n = begin;
  for (; n + 4 <= end; n += 4) dense_rows<T, 4>(job, n);
  for (; n < end; n++) dense_rows<T, 1>(job, n);
}

void dense(const DenseProduct& job, int64_t begin, int64_t end) {
  assert(0 <= begin && begin <= end && end <= job.w.rows);
  switch (job.w.type) {
    case Type::f32:
      return dense_typed<Type::f32>(job, begin, end);
    case Type::f16:
      return dense_typed<Type::f16>(job, begin, end);
    case Type::bf16:
      return dense_typed<Type::bf16>(job, begin, end);
    case Type::s8:  // such weights are packed
      return;
  }
}

// RM rows of one panel. The result of a row does not depend on the rows beside it.
template <Type T, int RM>
void update_tile(const LowRankUpdate& job, int64_t panel, int64_t m) {
  using E = Elements<T>;
  constexpr int kParts = kPanel / kLanes;
  const auto* up = static_cast<const typename E::type*>(job.up) + (panel - job.first) * job.rank * kPanel;
  const float* h = job.h + m * job.h_stride;
  assert(job.first <= panel && panel < job.last && panel * kPanel < job.columns && m + RM <= job.m);
  reg sums[RM][kParts];
  for (int i = 0; i < RM; i++)
    for (int p = 0; p < kParts; p++) sums[i][p] = Vec::zero();
  for (int64_t r = 0; r < job.rank; r++)
    for (int p = 0; p < kParts; p++) {
      const reg line = E::load(up + r * kPanel + p * kLanes);
      for (int i = 0; i < RM; i++) sums[i][p] = Vec::fma(line, Vec::set1(h[i * job.h_stride + r]), sums[i][p]);
    }
  const int64_t left = job.columns - panel * kPanel, count = left < kPanel ? left : kPanel;
  for (int i = 0; i < RM; i++) {
    float last[kPanel] = {}, *y = job.y + (m + i) * job.columns + panel * kPanel;
    float* out = count == kPanel ? y : last;
    if (out == last) memcpy(last, y, sizeof(float) * size_t(count));
    for (int p = 0; p < kParts; p++)
      Vec::store(out + p * kLanes, Vec::fma(sums[i][p], Vec::set1(job.scale), Vec::load(out + p * kLanes)));
    if (out == last) memcpy(y, last, sizeof(float) * size_t(count));
  }
}

template <Type T>
void update_typed(const LowRankUpdate& job, int64_t begin, int64_t end) {
  constexpr int kRows = kLanes >= 8 ? kLanes / 2 : 2;  // 8 sums in registers hide the latency of a multiplication
  for (int64_t panel = begin; panel < end; panel++) {
    int64_t m = 0;
    for (; m + kRows <= job.m; m += kRows) update_tile<T, kRows>(job, panel, m);
    for (; m < job.m; m++) update_tile<T, 1>(job, panel, m);
  }
}

void update(const LowRankUpdate& job, int64_t begin, int64_t end) {
  begin = begin > job.first ? begin : job.first;
  end = end < job.last ? end : job.last;
  switch (job.type) {
    case Type::f32:
      return update_typed<Type::f32>(job, begin, end);
    case Type::f16:
      return update_typed<Type::f16>(job, begin, end);
    case Type::bf16:
      return update_typed<Type::bf16>(job, begin, end);
    case Type::s8:
      return;
  }
}

template <Type T>
void to_float_typed(const void* data, int64_t count, float* y) {
  using E = Elements<T>;
  const auto* x = static_cast<const typename E::type*>(data);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Vec::store(y + i, E::load(x + i));
  for (; i < count; i++) y[i] = E::get(x[i]);
}

void to_float(const void* data, Type type, int64_t count, float* y) {
  switch (type) {
    case Type::f32:
      return to_float_typed<Type::f32>(data, count, y);
    case Type::f16:
      return to_float_typed<Type::f16>(data, count, y);
    case Type::bf16:
      return to_float_typed<Type::bf16>(data, count, y);
    case Type::s8:
      return;
  }
}

// ---- row by row ----------------------------------------------------------------------------------------------------

void rms_norm(const float* x, const float* weight, float eps, int64_t rows, int64_t width, float* y) {
  for (; rows > 0; rows--, x += width, y += width) {
    reg squares = Vec::zero();
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) squares = Vec::fma(Vec::load(x + i), Vec::load(x + i), squares);
    float sum = Vec::sum(squares);
    for (; i < width; i++) sum += x[i] * x[i];
    const float factor = 1.f / sqrtf(sum / float(width) + eps);
    for (i = 0; i + kLanes <= width; i += kLanes)
      Vec::store(y + i, Vec::mul(Vec::mul(Vec::load(x + i), Vec::set1(factor)), Vec::load(weight + i)));
    for (; i < width; i++) y[i] = x[i] * factor * weight[i];
  }
}

void rope(float* x, int64_t x_stride, const float* cos, const float* sin, int64_t rows, int64_t heads, int64_t dim,
          int64_t half) {
  for (int64_t t = 0; t < rows; t++, cos += half, sin += half)
    for (int64_t h = 0; h < heads; h++) {
      float *a = x + t * x_stride + h * dim, *b = a + half;
      int64_t i = 0;
      for (; i + kLanes <= half; i += kLanes) {
        const reg va = Vec::load(a + i), vb = Vec::load(b + i), c = Vec::load(cos + i), s = Vec::load(sin + i);
        Vec::store(a + i, Vec::sub(Vec::mul(va, c), Vec::mul(vb, s)));
        Vec::store(b + i, Vec::add(Vec::mul(vb, c), Vec::mul(va, s)));
      }
      for (; i < half; i++) {
        const float va = a[i], vb = b[i];
        a[i] = va * cos[i] - vb * sin[i];
        b[i] = vb * cos[i] + va * sin[i];
      }
    }
}

// x / (1 + e^-a(x)), for the lanes of a register and for one element.
struct Silu {  // a = x
  static reg exponent(reg x) { return Vec::sub(Vec::zero(), x); }
  static float exponent_of_one(float x) { return -x; }
};
struct GeluTanh {  // x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), since (1 + tanh(u)) / 2 = 1 / (1 + e^-2u)
  static constexpr float kLinear = -1.5957691216f, kCubic = -0.0713548163f;
  static reg exponent(reg x) { return Vec::mul(x, Vec::fma(Vec::mul(x, x), Vec::set1(kCubic), Vec::set1(kLinear))); }
  static float exponent_of_one(float x) { return x * (x * x * kCubic + kLinear); }
};

template <class Gate>
void gated(const float* gate_up, int64_t rows, int64_t width, float* y) {
  const reg one = Vec::set1(1.f);
  for (; rows > 0; rows--, gate_up += 2 * width, y += width) {
    const float *gate = gate_up, *up = gate_up + width;
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) {
      const reg x = Vec::load(gate + i);
      const reg activated = Vec::div(x, Vec::add(one, exponential(Gate::exponent(x))));
      Vec::store(y + i, Vec::mul(activated, Vec::load(up + i)));
    }
    for (; i < width; i++) y[i] = gate[i] / (1.f + expf(Gate::exponent_of_one(gate[i]))) * up[i];
  }
}

void swiglu(const float* gate_up, int64_t rows, int64_t width, float* y) {
  gated<Silu>(gate_up, rows, width, y);
}

void geglu(const float* gate_up, int64_t rows, int64_t width, float* y) {
  gated<GeluTanh>(gate_up, rows, width, y);
}

// cap tanh(x / cap), where tanh(u) = 1 - 2 / (e^2u + 1): off by 1e-7 of the cap, which is much more than scores are.
reg capped(reg x, float cap) {
  const reg one = Vec::set1(1.f);
  const reg e = exponential(Vec::mul(x, Vec::set1(2.f / cap)));
  return Vec::mul(Vec::set1(cap), Vec::sub(one, Vec::div(Vec::set1(2.f), Vec::add(e, one))));
}

void softcap(float* x, int64_t count, float cap) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Vec::store(x + i, capped(Vec::load(x + i), cap));
  for (; i < count; i++) x[i] = cap * tanhf(x[i] / cap);
}

#include "generic_pages.h"
// then, because attention reads pages:
#include "generic_attention.h"
