// Rounding over the vector type `Vec` of an instruction set, whose lanes are rows: see rounding.h for what is computed.
//
// A unit includes this inside its anonymous namespace after defining `Vec`:
//   reg, lanes; set1, load, store, add, sub, mul, min, max, abs, round (to nearest even); less(a, b, x, y): x where a <
//   b, else y; inverse (1 / v, 0 for 0); half (v as float16 holds it), store_f16 ints; to_ints; put(ints, v, n): ints |
//   v << n; store_ints
// and <assert.h>, <math.h>, <string.h>, "kernels.h" and "rounding.h" outside of it.

using reg = Vec::reg;
using ints = Vec::ints;
constexpr int kLanes = Vec::lanes;

// The sum of value(k) for begin <= k < begin + count.
template <class F>
reg sum_over(int64_t begin, int64_t count, const F& value) {
  if (count > 128) {
    const int64_t first = count / 2 / 8 * 8;
    return Vec::add(sum_over(begin, first, value), sum_over(begin + first, count - first, value));
  }
  reg s[8];
  for (int j = 0; j < 8; j++) s[j] = value(begin + j);
  for (int64_t k = begin + 8; k < begin + count; k += 8)
    for (int j = 0; j < 8; j++) s[j] = Vec::add(s[j], value(k + j));
  return Vec::add(Vec::add(Vec::add(s[0], s[1]), Vec::add(s[2], s[3])),
                  Vec::add(Vec::add(s[4], s[5]), Vec::add(s[6], s[7])));
}

reg clip(reg v, float low, float high) {
  return Vec::min(Vec::max(v, Vec::set1(low)), Vec::set1(high));
}

reg square(reg v) {
  return Vec::mul(v, v);
}

// One group of `kLanes` rows: x [group, lanes], and room for as many levels.
struct Group {
  const Rounding& job;
  const float* x;
  float* levels;

  reg input(int64_t k) const { return Vec::load(x + k * kLanes); }
  reg level(int64_t k) const { return Vec::load(levels + k * kLanes); }
};

bool is_finite(const Group& group) {
  reg nothing = Vec::set1(0.f);
  for (int64_t k = 0; k < group.job.group; k++) nothing = Vec::add(nothing, Vec::sub(group.input(k), group.input(k)));
  float lanes[kLanes];
  Vec::store(lanes, nothing);
  bool finite = true;
  for (float lane : lanes) finite = finite && lane == 0;
  return finite;
}

struct Levels {
  reg scale, zero;  // scale as float16 holds it
};

Levels search_symmetric(const Group& group) {
  const int64_t size = group.job.group;
  const float h = group.job.bits == 4 ? 8.f : 128.f;
  reg extreme = group.input(0), largest = Vec::abs(extreme);
  for (int64_t k = 1; k < size; k++) {
    const reg magnitude = Vec::abs(group.input(k));
    extreme = Vec::less(largest, magnitude, group.input(k), extreme);
    largest = Vec::max(largest, magnitude);
  }
  reg best = Vec::set1(0.f), least = Vec::set1(INFINITY);
  for (int i = 0; i < group.job.count; i++) {
    const reg inverse = Vec::inverse(Vec::mul(extreme, Vec::set1(-group.job.fractions[i] / h)));
    for (int64_t k = 0; k < size; k++)
      Vec::store(group.levels + k * kLanes, clip(Vec::round(Vec::mul(group.input(k), inverse)), -h, h - 1));
    const reg squares = sum_over(0, size, [&](int64_t k) { return square(group.level(k)); });
    const reg product = sum_over(0, size, [&](int64_t k) { return Vec::mul(group.input(k), group.level(k)); });
    const reg scale = Vec::mul(product, Vec::inverse(squares));
    const reg error =
        sum_over(0, size, [&](int64_t k) { return square(Vec::sub(group.input(k), Vec::mul(scale, group.level(k)))); });
    best = Vec::less(error, least, scale, best);
    least = Vec::less(error, least, error, least);
  }
  return {Vec::half(best), Vec::set1(h)};
}

Levels search_asymmetric(const Group& group) {
  const int64_t size = group.job.group;
  const float t = group.job.bits == 4 ? 15.f : 255.f;
  const reg none = Vec::set1(0.f);
  reg low = none, high = none;
  for (int64_t k = 0; k < size; k++) {
    low = Vec::min(group.input(k), low);
    high = Vec::max(group.input(k), high);
  }
  Levels best{none, none};
  reg least = Vec::set1(INFINITY);
  for (int i = 0; i < group.job.count; i++) {
    const float fraction = group.job.fractions[i];
    const reg scale = Vec::half(Vec::mul(Vec::sub(high, low), Vec::set1(fraction / t)));
    const reg inverse = Vec::inverse(scale);
    const reg zero = clip(Vec::round(Vec::mul(Vec::mul(Vec::sub(none, low), Vec::set1(fraction)), inverse)), 0.f, t);
    const reg error = sum_over(0, size, [&](int64_t k) {
      const reg q = clip(Vec::add(Vec::round(Vec::mul(group.input(k), inverse)), zero), 0.f, t);
      return square(Vec::sub(group.input(k), Vec::mul(scale, Vec::sub(q, zero))));
    });
    best = {Vec::less(error, least, scale, best.scale), Vec::less(error, least, zero, best.zero)};
    least = Vec::less(error, least, error, least);
  }
  return best;
}

// The stored values of a block's inputs; q(k) gives those of input k.
template <class F>
void store_block(int bits, const F& q, uint8_t* lines) {
  // Byte j of a row's four in a line: of 4 bits inputs 8i + j and 8i + 4 + j, of 8 bits input 4i + j.
  for (int k = 0; k < kBlock; k += bits == 4 ? 8 : 4, lines += 4 * kPanel) {
    ints line = Vec::to_ints(q(k));
    for (int j = 1; j < 4; j++) line = Vec::put(line, Vec::to_ints(q(k + j)), 8 * j);
    if (bits == 4)
      for (int j = 0; j < 4; j++) line = Vec::put(line, Vec::to_ints(q(k + 4 + j)), 8 * j + 4);
    Vec::store_ints(lines, line);
  }
}

// Some inputs of a row as float32: where they are, or in `room`.
const float* inputs_of(const Rounding& job, int64_t row, int64_t first, int64_t count, float* room) {
  const int64_t place = row * job.stride + first;
  if (job.type == Type::f32) return static_cast<const float*>(job.weight) + place;
  job.to_float(static_cast<const uint16_t*>(job.weight) + place, job.type, count, room);
  return room;
}

// Group g of the rows from `row` on, which are rows `place` and following of their panel.
bool round_group(const Rounding& job, int64_t panel, int place, int64_t g, float* scratch) {
  const int64_t first = g * job.group, left = job.columns - first, count = left < job.group ? left : job.group;
  float *x = scratch, *levels = x + job.group * kLanes, *room = levels + job.group * kLanes;
  float origins[kLanes];
  for (int lane = 0; lane < kLanes; lane++) {
    const int64_t row = panel * kPanel + place + lane;
    const bool there = row < job.rows;
    const float* from = there ? inputs_of(job, row, first, count, room) : nullptr;
    for (int64_t k = 0; there && k < count; k++) x[k * kLanes + lane] = from[k];
    for (int64_t k = there ? count : 0; k < job.group; k++) x[k * kLanes + lane] = 0;
    origins[lane] = there ? 1.f : 0.f;
  }
  const Group group{job, x, levels};
  if (!is_finite(group)) return false;
  const Levels found = job.zeros ? search_asymmetric(group) : search_symmetric(group);
  const reg inverse = Vec::inverse(found.scale), zero = Vec::mul(found.zero, Vec::load(origins));
  const float t = job.bits == 4 ? 15.f : 255.f;
  for (int64_t b = 0; b < job.group / kBlock; b++) {
    const auto q = [&](int k) {
      return clip(Vec::add(Vec::round(Vec::mul(group.input(b * kBlock + k), inverse)), zero), 0.f, t);
    };
    const int64_t block = (panel * job.groups + g) * (job.group / kBlock) + b;
    store_block(job.bits, q, job.qweight + block * 64 * job.bits + 4 * place);
  }
  const int64_t index = (panel * job.groups + g) * kPanel + place;
  Vec::store_f16(job.scales + index, found.scale);
  if (job.zeros) {
    float zeros[kLanes];
    Vec::store(zeros, zero);
    for (int lane = 0; lane < kLanes; lane++) job.zeros[index + lane] = uint8_t(zeros[lane]);
  }
  return true;
}

bool round_panels(const Rounding& job, int64_t begin, int64_t end, float* scratch) {
  assert(0 <= begin && begin <= end && (end - 1) * kPanel < job.rows && job.group % kBlock == 0);
  bool finite = true;
  for (int64_t panel = begin; panel < end; panel++)
    for (int place = 0; place < kPanel; place += kLanes)
      for (int64_t g = 0; g < job.groups; g++) finite = round_group(job, panel, place, g, scratch) && finite;
  return finite;
}
