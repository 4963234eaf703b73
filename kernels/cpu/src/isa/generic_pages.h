// A page of keys and values, and how they are written to it; included by generic.h.

// One token's key or value of one head, elements `stride` apart.
template <Type T>
void put(const float* x, int64_t dim, typename Elements<T>::type* out, int64_t stride, float*) {
  int64_t d = 0;
  for (; stride == 1 && d + kLanes <= dim; d += kLanes) Elements<T>::store(out + d, Vec::load(x + d));
  for (; d < dim; d++) out[d * stride] = Elements<T>::put(x[d]);
}

// The same in 8 bits: absmax / 127 is the scale.
template <>
void put<Type::s8>(const float* x, int64_t dim, int8_t* out, int64_t stride, float* scale) {
  float highest = 0;
  for (int64_t d = 0; d < dim; d++) highest = fabsf(x[d]) > highest ? fabsf(x[d]) : highest;
  const float inverse = highest > 1e-30f ? 127.f / highest : 0.f;
  *scale = highest / 127.f;
  for (int64_t d = 0; d < dim; d++) {
    const float v = nearbyintf(x[d] * inverse);
    out[d * stride] = int8_t(v >= -127.f && v <= 127.f ? int(v) : 0);
  }
}

// One KV head's part of a page.
template <Type T>
struct Head {
  using element = typename Elements<T>::type;
  element *keys, *values;
  float* scales;  // null but for s8
};

template <Type T>
Head<T> head_at(const Attention& job, int64_t kv_head, int64_t position) {
  assert(0 <= kv_head && kv_head < job.kv_heads && 0 <= position && position < job.position + job.rows);
  using element = typename Head<T>::element;
  auto* keys = reinterpret_cast<element*>(job.pages[position / kPage] + job.layer_offset + kv_head * job.head_bytes);
  element* values = keys + kPage * job.dim;
  return {keys, values, T == Type::s8 ? reinterpret_cast<float*>(values + kPage * job.dim) : nullptr};
}

template <Type T>
void append_typed(const Attention& job, const float* k, const float* v, int64_t k_stride, int64_t v_stride,
                  int64_t begin, int64_t end) {
  for (int64_t h = 0; h < job.kv_heads; h++)
    for (int64_t t = begin; t < end; t++) {
      const Head<T> head = head_at<T>(job, h, job.position + t);
      const int64_t slot = (job.position + t) % kPage;
      put<T>(k + t * k_stride + h * job.dim, job.dim, head.keys + slot / kKeys * kKeys * job.dim + slot % kKeys, kKeys,
             head.scales + slot);
      put<T>(v + t * v_stride + h * job.dim, job.dim, head.values + slot * job.dim, 1, head.scales + kPage + slot);
    }
}

void append(const Attention& job, const float* k, const float* v, int64_t k_stride, int64_t v_stride, int64_t begin,
            int64_t end) {
  switch (job.type) {
    case Type::f32:
      return append_typed<Type::f32>(job, k, v, k_stride, v_stride, begin, end);
    case Type::f16:
      return append_typed<Type::f16>(job, k, v, k_stride, v_stride, begin, end);
    case Type::s8:
      return append_typed<Type::s8>(job, k, v, k_stride, v_stride, begin, end);
    case Type::bf16:
      return;
  }
}
