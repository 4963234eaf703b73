// Choosing tokens from the logits of a large vocabulary without sorting them all.
#pragma once

#include <cstdint>

namespace edgereason {

// ids [count]: the `count` largest of x [size], largest first, and of equal ones the first first; NaN counts as the
// least. count <= size.
void top(const float* x, int64_t size, int64_t count, int64_t* ids);

// The sum of e^((x - highest) / temperature) over x [size], to 1e-14 of it; `highest` is the largest of x.
double softmax_mass(const float* x, int64_t size, double highest, double temperature);

}  // namespace edgereason
