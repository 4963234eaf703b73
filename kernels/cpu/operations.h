// The operations on whole arrays: scratch memory, and the split over threads.
#pragma once

#include "kernels.h"

namespace edgereason {

// y [m, rows] = x [m, columns] w^T + add
void linear(const PackedWeight& w, const float* x, int64_t m, const float* add, int64_t add_stride, float* y);
void linear(const DenseWeight& w, const float* x, int64_t m, const float* add, int64_t add_stride, float* y);

// y [count, columns]: row ids[i] of the weight. The ids have been checked.
void embedding(const PackedWeight& w, const int64_t* ids, int64_t count, float* y);
void embedding(const DenseWeight& w, const int64_t* ids, int64_t count, float* y);

void rms_norm(const float* x, const float* weight, float eps, int64_t rows, int64_t width, float* y);
void rope(float* x, int64_t x_stride, const float* cos, const float* sin, int64_t rows, int64_t heads, int64_t dim);
void swiglu(const float* gate_up, int64_t rows, int64_t width, float* y);

// Appends keys and values [rows, kv_heads, dim] to the cache at job.position, then attends.
void attention(const Attention& job, const float* k, int64_t k_stride, const float* v, int64_t v_stride);

}  // namespace edgereason
