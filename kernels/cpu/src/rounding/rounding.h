// Rounding a weight to 4 or 8 bits: for each group of inputs of a row the scale, and perhaps the zero point, of the
// least squared error among a few ranges.
//
// Every instruction set gives the same bytes, and the same on every machine: a product is never fused with an addition
// (the units are compiled with -ffp-contract=off), and the sum over a group has one order, numpy's (pairwise summation,
// Higham 1993): up to 128 values, eight sums s[j] over the inputs 8i + j, added as ((s0 + s1) + (s2 + s3)) + ((s4 + s5)
// + (s6 + s7)); of more values the sum of two halves, the first of them a multiple of eight long. Rows are independent,
// so a register holds one input of several rows and nothing has to be added across it.
//
// Symmetric, with h = 2^(bits - 1), e the value of largest magnitude in the group, the first of equals:
//
//   for each fraction f:  l = clip(rint(x / (-e f / h)), -h, h - 1)     e is on the side that has one level more
//                         s = sum(x l) / sum(l l)                       the best scale for these levels
//                         error = sum((x - s l)^2)
//   scale = s of the least error, in float16;  q = clip(rint(x / scale), -h, h - 1) + h
//
// Asymmetric, with t = 2^bits - 1, low = min(x, 0) and high = max(x, 0):
//
//   for each fraction f:  scale = (high - low) f / t, in float16;  zero = clip(rint(-low f / scale), 0, t)
//                         q = clip(rint(x / scale) + zero, 0, t);  error = sum((x - scale (q - zero))^2)
//   scale, zero and q of the least error
//
// Of equal errors the first counts; x / s is x times 1 / s, and 0 where s is 0.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace edgereason {

struct Rounding {
  const void* weight;  // [rows, columns], rows `stride` apart; float16 and bfloat16 are brought to float32 first
  Type type;
  int64_t rows, columns, stride;
  int64_t group, groups;  // inputs of a group, a multiple of 32; groups of a row, zeros behind the last column
  int bits;
  const float* fractions;  // [count]
  int count;
  // As `PackedWeight` has them. zeros: null where levels are symmetric. Rows that fill the last panel have scale 0.
  uint8_t* qweight;
  uint16_t* scales;
  uint8_t* zeros;
  void (*to_float)(const void* data, Type type, int64_t count,
                   float* y);  // of the instruction set; set by round_weight
};

// Panels begin <= p < end; false where a value is not finite, and then what was written is of no use. scratch: aligned
// to 64, kRoundingScratch * group floats.
using RoundPanels = bool (*)(const Rounding&, int64_t begin, int64_t end, float* scratch);

bool round_panels_scalar(const Rounding&, int64_t begin, int64_t end, float* scratch);
bool round_panels_avx2(const Rounding&, int64_t begin, int64_t end, float* scratch);
bool round_panels_avx512(const Rounding&, int64_t begin, int64_t end, float* scratch);
bool round_panels_neon(const Rounding&, int64_t begin, int64_t end, float* scratch);

// For each input of a group two floats for each row of a panel, and one.
constexpr int64_t kRoundingScratch = 2 * kPanel + 1;

// All panels, with the instruction set in use, on all threads.
bool round_weight(Rounding);

}  // namespace edgereason
