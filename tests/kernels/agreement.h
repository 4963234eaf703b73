// What the parts of the agreement test share: random operands, the float formats' definition, and the comparison.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <string>

#include "guarded.h"
#include "kernels.h"

namespace edgereason {

using Floats = Guarded<float>;

struct Random {
  std::mt19937_64 engine;

  int64_t integer(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine); }
  bool coin() { return integer(0, 1) != 0; }
  template <class T>
  T one_of(std::initializer_list<T> values) {
    return values.begin()[integer(0, int64_t(values.size()) - 1)];
  }
  Floats normal(int64_t size, float deviation = 1) {
    std::normal_distribution<float> distribution(0, deviation);
    Floats values(size);
    for (float& v : values) v = integer(0, 9) == 0 ? 0.f : distribution(engine);
    return values;
  }
  template <class T>
  Guarded<T> integers(int64_t size, int64_t low, int64_t high) {
    Guarded<T> values(size);
    for (T& v : values) v = T(integer(low, high));
    return values;
  }
};

// What an operation gave, and how far another order of the same additions may take each value from it.
struct Result {
  Floats values, tolerance;
};

// Runs an operation with each instruction set, on an output full of NaN, and compares with `expected` or, without it,
// with the scalar result up to a part of its largest value. Throws std::runtime_error.
void compare(const std::string& what, int64_t size, const std::function<void(float*)>& run,
             const Result* expected = nullptr);

// The same for one instruction set that has an arithmetic of its own.
void compare_one(const Kernels& isa, const std::string& what, int64_t size, const std::function<void(float*)>& run,
                 const Result& expected);

// Runs an operation on several rows and on each alone, with each instruction set: the bits have to be the same. Throws
// std::runtime_error.
void expect_as_if_alone(const std::string& what, int64_t size, const std::function<void(float*)>& together,
                        const std::function<void(float*)>& alone);

inline float from_f16(uint16_t h) {
  const int exponent = h >> 10 & 31, mantissa = h & 1023;
  const float magnitude = exponent == 31  ? (mantissa ? NAN : INFINITY)
                          : exponent == 0 ? std::ldexp(float(mantissa), -24)
                                          : std::ldexp(float(mantissa + 1024), exponent - 25);
  return h & 0x8000 ? -magnitude : magnitude;
}

inline float from_bf16(uint16_t b) {
  const uint32_t bits = uint32_t(b) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The checks of products, in agreement_products.cpp.
void check_packed(Random&);
void check_panel_range(Random&);
void check_dense(Random&);
void check_adapter(Random&);
void check_embedding(Random&);

// Of rounding, in agreement_rounding.cpp.
void check_rounding(Random&);

}  // namespace edgereason
