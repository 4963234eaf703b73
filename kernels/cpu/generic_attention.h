// Attention over pages of keys and values, the end of generic.h.

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
  float* scales;

  Head(const Attention& job, int64_t kv_head, int64_t position) {
    assert(0 <= kv_head && kv_head < job.kv_heads && 0 <= position && position < job.position + job.rows);
    uint8_t* page = job.pages[position / kPage] + job.layer_offset + kv_head * job.head_bytes;
    keys = reinterpret_cast<element*>(page);
    values = keys + kPage * job.dim;
    scales = reinterpret_cast<float*>(values + kPage * job.dim);
  }
};

template <Type T>
void append_typed(const Attention& job, const float* k, const float* v, int64_t k_stride, int64_t v_stride,
                  int64_t begin, int64_t end) {
  for (int64_t h = 0; h < job.kv_heads; h++)
    for (int64_t t = begin; t < end; t++) {
      const Head<T> head(job, h, job.position + t);
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

// Q queries over the keys of one KV head; query i sees those at firsts[i] <= position < lengths[i]. Softmax runs over
// pages of 64 keys with a running maximum and sum (Milakov and Gimelshein, arXiv 1805.02867; FlashAttention, arXiv
// 2205.14135).
template <Type T, int Q>
struct Queries {
  using E = Elements<T>;
  using element = typename E::type;
  static constexpr int kParts = kKeys / kLanes;

  const Attention* job;
  int64_t kv_head;
  int64_t dim;
  float scale;
  const float* q[Q];
  float* y[Q];
  int64_t firsts[Q], lengths[Q];
  float highest[Q], sums[Q];
  float* weights;  // [Q, kPage]: scores, then their exponentials
  float* mixed;    // [Q, dim]: the weighted sum of values so far

  void run() {
    int64_t first = firsts[0], longest = 0;
    for (int i = 0; i < Q; i++) {
      first = firsts[i] < first ? firsts[i] : first;
      highest[i] = -INFINITY;
      sums[i] = 0;
      longest = lengths[i] > longest ? lengths[i] : longest;
    }
    memset(mixed, 0, sizeof(float) * size_t(Q * dim));
    for (int64_t start = first / kPage * kPage; start < longest; start += kPage) {
      const int64_t count = longest - start < kPage ? longest - start : kPage;
      const Head<T> head(*job, kv_head, start);
      for (int64_t s = 0; s < count; s += kKeys) score(head, s);
      for (int i = 0; i < Q; i++)
        soften(i, firsts[i] - start, lengths[i] - start < count ? lengths[i] - start : count, count);
      if constexpr (T == Type::s8)
        for (int i = 0; i < Q; i++)
          for (int64_t s = 0; s < count; s++) weights[i * kPage + s] *= head.scales[kPage + s];
      mix(head.values, count);
    }
    for (int i = 0; i < Q; i++)
      for (int64_t d = 0; d < dim; d++) y[i][d] = mixed[i * dim + d] / sums[i];
  }

  // Scores of the sixteen keys from s on.
  void score(const Head<T>& head, int64_t s) {
    const element* block = head.keys + s * dim;
    reg total[Q][kParts];
    for (int i = 0; i < Q; i++)
      for (int p = 0; p < kParts; p++) total[i][p] = Vec::zero();
    for (int64_t d = 0; d < dim; d++)
      for (int p = 0; p < kParts; p++) {
        const reg k = E::load(block + d * kKeys + p * kLanes);
        for (int i = 0; i < Q; i++) total[i][p] = Vec::fma(k, Vec::set1(q[i][d]), total[i][p]);
      }
    for (int p = 0; p < kParts; p++) {
      reg factor = Vec::set1(scale);
      if constexpr (T == Type::s8) factor = Vec::mul(factor, Vec::load(head.scales + s + p * kLanes));
      for (int i = 0; i < Q; i++) {
        const reg scores = Vec::mul(total[i][p], factor);
        Vec::store(weights + i * kPage + s + p * kLanes, job->softcap > 0 ? capped(scores, job->softcap) : scores);
      }
    }
  }

  // Scores of query i to weights; of the page's `count` keys it sees those at first <= s < last, which may be none.
  void soften(int i, int64_t first, int64_t last, int64_t count) {
    float* w = weights + i * kPage;
    if (first < 0) first = 0;
    if (last <= first) {
      for (int64_t s = 0; s < count; s++) w[s] = 0;
      return;
    }
    // Lanes beyond the last key come from memory that was never written: replaced, never computed with.
    for (int64_t s = last; s < kPage; s++) w[s] = -INFINITY;
    for (int64_t s = 0; s < first; s++) w[s] = -INFINITY;
    reg top = Vec::load(w);
    for (int s = kLanes; s < kPage; s += kLanes) top = Vec::max(top, Vec::load(w + s));
    const float before = highest[i], now = Vec::highest(top);
    highest[i] = before > now ? before : now;
    const float correction = expf(before - highest[i]);
    reg sum = Vec::zero();
    for (int s = 0; s < kPage; s += kLanes) {
      const reg e = exponential(Vec::sub(Vec::load(w + s), Vec::set1(highest[i])));
      Vec::store(w + s, e);
    }
    for (int64_t s = last; s < kPage; s++) w[s] = 0;
    for (int64_t s = 0; s < first; s++) w[s] = 0;
    for (int s = 0; s < kPage; s += kLanes) sum = Vec::add(sum, Vec::load(w + s));
    sums[i] = sums[i] * correction + Vec::sum(sum);
    if (correction != 1.f)
      for (int64_t d = 0; d < dim; d++) mixed[i * dim + d] *= correction;
  }

  void mix(const element* block, int64_t count) {
    int64_t d = 0;
    for (; d + 2 * kLanes <= dim; d += 2 * kLanes) mix_lanes<2>(block, d, count);
    for (; d + kLanes <= dim; d += kLanes) mix_lanes<1>(block, d, count);
    for (; d < dim; d++)
      for (int i = 0; i < Q; i++)
        for (int64_t s = 0; s < count; s++) mixed[i * dim + d] += weights[i * kPage + s] * E::get(block[s * dim + d]);
  }

  template <int P>
  void mix_lanes(const element* block, int64_t d, int64_t count) {
    reg total[Q][P];
    for (int i = 0; i < Q; i++)
      for (int p = 0; p < P; p++) total[i][p] = Vec::load(mixed + i * dim + d + p * kLanes);
    for (int64_t s = 0; s < count; s++)
      for (int p = 0; p < P; p++) {
        const reg v = E::load(block + s * dim + d + p * kLanes);
        for (int i = 0; i < Q; i++) total[i][p] = Vec::fma(v, Vec::set1(weights[i * kPage + s]), total[i][p]);
      }
    for (int i = 0; i < Q; i++)
      for (int p = 0; p < P; p++) Vec::store(mixed + i * dim + d + p * kLanes, total[i][p]);
  }
};

// Query `index` of a task: its row is begin + index / group, its head is index % group of the KV head's.
template <Type T, int Q>
void attend(const Attention& job, int64_t kv_head, int64_t begin, int64_t index, float* scratch) {
  const int64_t group = job.heads / job.kv_heads;
  Queries<T, Q> task;
  task.job = &job;
  task.kv_head = kv_head;
  task.dim = job.dim;
  task.scale = job.scale;
  task.weights = scratch;
  task.mixed = scratch + Q * kPage;
  for (int i = 0; i < Q; i++) {
    const int64_t row = begin + (index + i) / group, head = kv_head * group + (index + i) % group;
    task.q[i] = job.q + row * job.q_stride + head * job.dim;
    task.y[i] = job.y + (row * job.heads + head) * job.dim;
    task.lengths[i] = job.position + row + 1;
    task.firsts[i] = job.window > 0 && task.lengths[i] > job.window ? task.lengths[i] - job.window : 0;
  }
  task.run();
}

template <Type T>
void attention_typed(const Attention& job, int64_t kv_head, int64_t begin, int64_t end, float* scratch) {
  assert(0 <= begin && begin <= end && end <= job.rows && job.dim <= kMaxHeadDim && job.heads % job.kv_heads == 0);
  const int64_t queries = (end - begin) * (job.heads / job.kv_heads);
  int64_t i = 0;
  for (; i + 4 <= queries; i += 4) attend<T, 4>(job, kv_head, begin, i, scratch);
  switch (queries - i) {
    case 3:
      return attend<T, 3>(job, kv_head, begin, i, scratch);
    case 2:
      return attend<T, 2>(job, kv_head, begin, i, scratch);
    case 1:
      return attend<T, 1>(job, kv_head, begin, i, scratch);
  }
}

void attention(const Attention& job, int64_t kv_head, int64_t begin, int64_t end, float* scratch) {
  switch (job.type) {
    case Type::f32:
      return attention_typed<Type::f32>(job, kv_head, begin, end, scratch);
    case Type::f16:
      return attention_typed<Type::f16>(job, kv_head, begin, end, scratch);
    case Type::s8:
      return attention_typed<Type::s8>(job, kv_head, begin, end, scratch);
    case Type::bf16:
      return;
  }
}
