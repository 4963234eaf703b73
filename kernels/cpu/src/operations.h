// The operations on whole arrays: scratch memory, and the split over threads.
#pragma once

#include <vector>

#include "kernels.h"

namespace edgereason {

// A LoRA adapter of one weight (arXiv 2106.09685): y += scale * (x down^T) up, where `down` has the rows of all parts
// one after the other, and each part changes some panels of y.
struct Adapter {
  struct Part {
    const void* up;  // [last - first, rank, 16]
    Type type;
    int64_t rank, first, last;
    float scale;
  };
  DenseWeight down;
  std::vector<Part> parts;
};

// Rows begin <= t < end of a pass have an adapter.
struct AdapterRun {
  const Adapter* adapter;
  int64_t begin, end;
};
using AdapterRuns = std::vector<AdapterRun>;

// Whether products of more than kFewRows rows with 4-bit weights may take their own arithmetic (ManyRows in kernels.h).
// On, unless the environment variable EDGEREASON_SPANS is "off".
bool spans_wanted();
void want_spans(bool wanted);

// y [m, rows] = x [m, columns] w^T + add, plus what the adapters of the rows add.
void linear(const PackedWeight& w, const float* x, int64_t m, const float* add, int64_t add_stride,
            const AdapterRuns& runs, float* y);
void linear(const DenseWeight& w, const float* x, int64_t m, const float* add, int64_t add_stride,
            const AdapterRuns& runs, float* y);

// y [rows, width] = add + bias [width]; rows of add are add_stride apart.
void add_bias(const float* add, int64_t add_stride, const float* bias, int64_t rows, int64_t width, float* y);

// y [count, columns]: row ids[i] of the weight. The ids have been checked.
void embedding(const PackedWeight& w, const int64_t* ids, int64_t count, float* y);
void embedding(const DenseWeight& w, const int64_t* ids, int64_t count, float* y);

void rms_norm(const float* x, const float* weight, float eps, int64_t rows, int64_t width, float* y);
void head_norm(float* x, int64_t x_stride, const float* weight, float eps, int64_t rows, int64_t heads, int64_t dim);
void rope(float* x, int64_t x_stride, const float* cos, const float* sin, int64_t rows, int64_t heads, int64_t dim,
          int64_t half);
void swiglu(const float* gate_up, int64_t rows, int64_t width, float* y);
void geglu(const float* gate_up, int64_t rows, int64_t width, float* y);
void softcap(float* x, int64_t count, float cap);

// Appends keys and values [rows, kv_heads, dim] to the caches, then attends. The rows of the sequences follow each
// other.
void attention(const std::vector<Attention>& sequences, const float* k, int64_t k_stride, const float* v,
               int64_t v_stride);

}  // namespace edgereason
