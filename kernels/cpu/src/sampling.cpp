#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <vector>

#include "threads.h"

namespace edgereason {
namespace {

constexpr int64_t kLongestRun = 64;
constexpr int kLanes = 16;  // chains of comparisons and sums that the compiler can keep in vector registers

float ordered(float x) {
  return x == x ? x : -std::numeric_limits<float>::infinity();
}

float highest_of(const float* x, int64_t count) {
  float lanes[kLanes];
  std::fill(lanes, lanes + kLanes, -std::numeric_limits<float>::infinity());
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int lane = 0; lane < kLanes; lane++) lanes[lane] = x[i + lane] > lanes[lane] ? x[i + lane] : lanes[lane];
  for (; i < count; i++) lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0];
  return *std::max_element(lanes, lanes + kLanes);
}

// Indices of all elements that may be among the `count` largest. Where x is cut into runs, the count-th highest of the
// runs' maxima is a bound: at least that many elements reach it.
std::vector<int64_t> candidates(const float* x, int64_t size, int64_t count) {
  const int64_t run = std::min(kLongestRun, size / (4 * count + 1));
  std::vector<int64_t> found;
  if (run < 4) {
    found.resize(size_t(size));
    std::iota(found.begin(), found.end(), int64_t(0));
    return found;
  }
  std::vector<float> maxima;
  for (int64_t i = 0; i < size; i += run) maxima.push_back(highest_of(x + i, std::min(run, size - i)));
  std::vector<float> ranked = maxima;
  std::nth_element(ranked.begin(), ranked.begin() + (count - 1), ranked.end(), std::greater<float>());
  const float bound = ranked[size_t(count - 1)];
  for (size_t r = 0; r < maxima.size(); r++) {
    if (maxima[r] < bound) continue;
    const int64_t begin = int64_t(r) * run, end = std::min(begin + run, size);
    for (int64_t i = begin; i < end; i++)
      if (ordered(x[i]) >= bound) found.push_back(i);
  }
  return found;
}

// e^x to 1e-15 for x <= 0, from -700 on: x = n ln 2 + r, |r| <= 0.35, where the Taylor series of degree 12 is off by
// 2e-16. Without branches and library calls, so that the compiler computes several at a time.
double exponential(double x) {
  constexpr double kRound = 0x1.8p52;  // adding it leaves an integer in the lowest bits
  x = x > -700. ? x : -700.;
  const double shifted = x * 1.4426950408889634 + kRound, n = shifted - kRound;
  const double r = (x - n * 0x1.62e42fefa38p-1) - n * 0x1.ef35793c7673p-45;
  double p = ((1. / 479001600 * r + 1. / 39916800) * r + 1. / 3628800) * r + 1. / 362880;
  p = (((p * r + 1. / 40320) * r + 1. / 5040) * r + 1. / 720) * r + 1. / 120;
  p = ((((p * r + 1. / 24) * r + 1. / 6) * r + 1. / 2) * r + 1.) * r + 1.;
  int64_t bits, power;
  std::memcpy(&bits, &p, sizeof bits);
  std::memcpy(&power, &shifted, sizeof power);
  bits += int64_t(uint64_t(power) << 52);
  std::memcpy(&p, &bits, sizeof p);
  return p;
}

}  // namespace

void top(const float* x, int64_t size, int64_t count, int64_t* ids) {
  if (count == 0) return;
  std::vector<int64_t> found = candidates(x, size, count);
  const auto before = [x](int64_t a, int64_t b) {
    const float left = ordered(x[a]), right = ordered(x[b]);
    return left > right || (left == right && a < b);
  };
  if (int64_t(found.size()) > count) std::nth_element(found.begin(), found.begin() + (count - 1), found.end(), before);
  std::sort(found.begin(), found.begin() + count, before);
  std::copy(found.begin(), found.begin() + count, ids);
}

double softmax_mass(const float* x, int64_t size, double highest, double temperature) {
  // In blocks that do not depend on the threads, so that neither does the sum.
  constexpr int64_t kBlockSize = 1024;
  const int64_t blocks = (size + kBlockSize - 1) / kBlockSize;
  std::vector<double> sums(size_t(blocks), 0.);
  const double inverse = 1 / temperature;
  parallel(blocks, 16, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; b++) {
      const float* from = x + b * kBlockSize;
      const int64_t count = std::min(kBlockSize, size - b * kBlockSize);
      double values[kBlockSize] = {}, lanes[kLanes] = {};
      for (int64_t i = 0; i < count; i++) values[i] = exponential((double(from[i]) - highest) * inverse);
      for (int64_t i = 0; i < kBlockSize; i += kLanes)
        for (int lane = 0; lane < kLanes; lane++) lanes[lane] += values[i + lane];
      sums[size_t(b)] = std::accumulate(lanes, lanes + kLanes, 0.);
    }
  });
  return std::accumulate(sums.begin(), sums.end(), 0.);
}

}  // namespace edgereason
