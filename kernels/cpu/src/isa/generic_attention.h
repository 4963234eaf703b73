// Attention over pages of keys and values, the end of generic.h.
//
// Queries come in tiles of up to eight, whose sums stay in registers: every key and value that is loaded serves all of
// a tile, every element of a query all the keys or values of a step. A task of more queries than a tile first turns a
// page into float32, once for all of its tiles; one of fewer, a decoded token's, reads the cache as it is.

// 2^x to 2 ulp for x <= 0, from -126 on: x = n + f, |f| <= 1/2, where the Taylor series of degree 6 is off by 1.2e-7.
reg power_of_two(reg x) {
  x = Vec::max(x, Vec::set1(-126.f));
  const reg n = Vec::round(x), f = Vec::sub(x, n);
  constexpr float kSeries[] = {1.33335581e-3f, 9.61812911e-3f, 5.55041087e-2f, 2.40226507e-1f, 6.93147181e-1f, 1.f};
  reg p = Vec::set1(1.54035304e-4f);
  for (int i = 0; i < 6; i++) p = Vec::fma(p, f, Vec::set1(kSeries[i]));
  return Vec::scale(p, n);
}

// One query, which sees the keys at first <= position < last, and its softmax over those that it has met: a running
// maximum and sums relative to it (Milakov and Gimelshein, arXiv 1805.02867). Scores are times log2(e), for powers
// of 2.
struct Query {
  const float* q;  // [dim]
  float* mixed;    // [dim]: the weighted sum of values
  int64_t first, last;
  float highest;
  float sums[kLanes];  // of the weights, to be added up at the end
};

// Registers of sums for each of Q queries, so that they, as many operands and a broadcast fit.
constexpr int parts_of(int queries) {
  int parts = 4;
  while (parts > 1 && queries * parts + parts + 1 > Vec::registers) parts /= 2;
  return parts;
}

// Asks for the cache line that holds `p`, `ahead` bytes further on.
template <class T>
void prefetch([[maybe_unused]] const T* p, [[maybe_unused]] int64_t ahead) {
#if defined(__GNUC__)
  __builtin_prefetch(reinterpret_cast<const char*>(p) + ahead);
#endif
}

// Q queries over one page.
template <Type T, int Q>
struct Tile {
  using E = Elements<T>;
  static constexpr int kParts = parts_of(Q);

  const Attention& job;
  Query* queries;
  float* weights;  // [Q, kPage]: scores, then what the values are multiplied with
  int64_t
      ahead;  // how many bytes from this page the next one lies: fetched meanwhile, which the processor cannot guess

  // The page whose first key is at `start`.
  void meet(const Head<T>& page, int64_t start) {
    int64_t first = kPage, last = 0;
    for (int i = 0; i < Q; i++) {
      first = queries[i].first - start < first ? queries[i].first - start : first;
      last = queries[i].last - start > last ? queries[i].last - start : last;
    }
    first = first > 0 ? first : 0;
    last = last < kPage ? last : kPage;
    if (last <= first) return;
    for (int64_t s = first / (kParts * kLanes) * (kParts * kLanes); s < last; s += kParts * kLanes) score(page, s);
    for (int i = 0; i < Q; i++) soften(queries[i], start, weights + i * kPage);
    if (page.scales)
      for (int i = 0; i < Q; i++)
        for (int64_t s = first; s < last; s++) weights[i * kPage + s] *= page.scales[kPage + s];
    int64_t d = 0;
    for (; d + kParts * kLanes <= job.dim; d += kParts * kLanes) mix<kParts>(page.values, d, first, last);
    for (; d + kLanes <= job.dim; d += kLanes) mix<1>(page.values, d, first, last);
    for (; d < job.dim; d++)
      for (int i = 0; i < Q; i++)
        for (int64_t s = first; s < last; s++)
          queries[i].mixed[d] += weights[i * kPage + s] * E::get(page.values[s * job.dim + d]);
  }

  // Scores of the kParts * kLanes keys from s on.
  void score(const Head<T>& page, int64_t s) {
    const typename E::type* keys[kParts];
    reg total[Q][kParts];
    for (int p = 0; p < kParts; p++) {
      const int64_t key = s + p * kLanes;
      keys[p] = page.keys + key / kKeys * kKeys * job.dim + key % kKeys;
      for (int i = 0; i < Q; i++) total[i][p] = Vec::zero();
    }
    for (int64_t d = 0; d < job.dim; d++) {
      reg k[kParts];
      for (int p = 0; p < kParts; p++) {
        k[p] = E::load(keys[p] + d * kKeys);
        if (p * kLanes % kKeys == 0) prefetch(keys[p] + d * kKeys, ahead);
      }
      for (int i = 0; i < Q; i++) {
        const reg q = Vec::set1(queries[i].q[d]);
        for (int p = 0; p < kParts; p++) total[i][p] = Vec::fma(k[p], q, total[i][p]);
      }
    }
    constexpr float kLog2e = 1.44269504f;
    for (int p = 0; p < kParts; p++) {
      reg factor = Vec::set1(job.softcap > 0 ? job.scale : job.scale * kLog2e);
      if (page.scales) factor = Vec::mul(factor, Vec::load(page.scales + s + p * kLanes));
      for (int i = 0; i < Q; i++) {
        reg scores = Vec::mul(total[i][p], factor);
        if (job.softcap > 0) scores = Vec::mul(capped(scores, job.softcap), Vec::set1(kLog2e));
        Vec::store(weights + i * kPage + s + p * kLanes, scores);
      }
    }
  }

  // A query's scores of a page become weights; those of keys that it does not see, 0.
  void soften(Query& query, int64_t start, float* w) {
    const int64_t first = query.first > start ? query.first - start : 0;
    const int64_t last = query.last - start < kPage ? query.last - start : kPage;
    if (last <= first) {
      for (int s = 0; s < kPage; s++) w[s] = 0;
      return;
    }
    // Scores of unseen keys may come from memory that was never written: replaced, never computed with.
    for (int64_t s = 0; s < first; s++) w[s] = -INFINITY;
    for (int64_t s = last; s < kPage; s++) w[s] = -INFINITY;
    reg top = Vec::load(w);
    for (int s = kLanes; s < kPage; s += kLanes) top = Vec::max(top, Vec::load(w + s));
    const float now = Vec::highest(top);
    if (now > query.highest) raise(query, now);
    const reg highest = Vec::set1(query.highest);
    for (int s = 0; s < kPage; s += kLanes) Vec::store(w + s, power_of_two(Vec::sub(Vec::load(w + s), highest)));
    for (int64_t s = 0; s < first; s++) w[s] = 0;
    for (int64_t s = last; s < kPage; s++) w[s] = 0;
    reg sum = Vec::load(query.sums);
    for (int s = 0; s < kPage; s += kLanes) sum = Vec::add(sum, Vec::load(w + s));
    Vec::store(query.sums, sum);
  }

  // Makes the sums so far relative to a higher score.
  void raise(Query& query, float highest) {
    const float correction = exp2f(query.highest - highest);
    query.highest = highest;
    for (int i = 0; i < kLanes; i++) query.sums[i] *= correction;
    for (int64_t d = 0; d < job.dim; d++) query.mixed[d] *= correction;
  }

  // Elements d to d + P * kLanes of the values at first <= s < last.
  template <int P>
  void mix(const typename E::type* values, int64_t d, int64_t first, int64_t last) {
    reg total[Q][P];
    for (int i = 0; i < Q; i++)
      for (int p = 0; p < P; p++) total[i][p] = Vec::load(queries[i].mixed + d + p * kLanes);
    for (int64_t s = first; s < last; s++) {
      reg v[P];
      for (int p = 0; p < P; p++) {
        v[p] = E::load(values + s * job.dim + d + p * kLanes);
        if (p * kLanes * sizeof(typename E::type) % 64 == 0) prefetch(values + s * job.dim + d + p * kLanes, ahead);
      }
      for (int i = 0; i < Q; i++) {
        const reg w = Vec::set1(weights[i * kPage + s]);
        for (int p = 0; p < P; p++) total[i][p] = Vec::fma(v[p], w, total[i][p]);
      }
    }
    for (int i = 0; i < Q; i++)
      for (int p = 0; p < P; p++) Vec::store(queries[i].mixed + d + p * kLanes, total[i][p]);
  }
};

template <Type T>
void meet(const Attention& job, const Head<T>& page, int64_t ahead, int64_t start, Query* queries, int64_t count,
          float* weights) {
  switch (count) {
    case 1:
      return Tile<T, 1>{job, queries, weights, ahead}.meet(page, start);
    case 2:
      return Tile<T, 2>{job, queries, weights, ahead}.meet(page, start);
    case 3:
      return Tile<T, 3>{job, queries, weights, ahead}.meet(page, start);
    case 4:
      return Tile<T, 4>{job, queries, weights, ahead}.meet(page, start);
    case 5:
      return Tile<T, 5>{job, queries, weights, ahead}.meet(page, start);
    case 6:
      return Tile<T, 6>{job, queries, weights, ahead}.meet(page, start);
    case 7:
      return Tile<T, 7>{job, queries, weights, ahead}.meet(page, start);
    case 8:
      return Tile<T, 8>{job, queries, weights, ahead}.meet(page, start);
  }
}

// The first `count` keys and values of a page in float32; scales stay beside them.
template <Type T>
Head<Type::f32> widen(const Head<T>& page, int64_t count, int64_t dim, float* out) {
  float *keys = out, *values = out + kPage * dim;
  to_float_typed<T>(page.keys, (count + kKeys - 1) / kKeys * kKeys * dim, keys);
  to_float_typed<T>(page.values, count * dim, values);
  return {keys, values, page.scales};
}

// Queries over the pages of one range, whose keys the first of them begins to see first and the last sees longest.
template <Type T>
void attend(const Attention& job, int64_t kv_head, Query* queries, int64_t count, float* scratch) {
  constexpr int64_t kShared = 6;  // queries of a tile, where there are many: with operands they fill 16 or 32 registers
  float *weights = scratch, *wide_page = weights + kMaxTile * kPage;
  const int64_t tiles = count <= kMaxTile ? 1 : (count + kShared - 1) / kShared, last = queries[count - 1].last;
  for (int64_t start = queries[0].first / kPage * kPage; start < last; start += kPage) {
    const Head<T> page = head_at<T>(job, kv_head, start);
    if (tiles == 1) {
      const Head<T> next = head_at<T>(job, kv_head, start + kPage < last ? start + kPage : start);
      const int64_t ahead = reinterpret_cast<const char*>(next.keys) - reinterpret_cast<const char*>(page.keys);
      meet(job, page, ahead, start, queries, count, weights);
      continue;
    }
    Head<Type::f32> wide{};
    if constexpr (T == Type::f32)
      wide = page;
    else
      wide = widen(page, last - start < kPage ? last - start : kPage, job.dim, wide_page);
    for (int64_t i = 0; i < tiles; i++) {
      const int64_t begin = i * count / tiles, end = (i + 1) * count / tiles;
      meet(job, wide, 0, start, queries + begin, end - begin, weights);
    }
  }
}

// What a query has met: f32 [2 + dim], the highest score, the sum of the weights relative to it, the values' sum.
constexpr int kHighest = 0, kSum = 1, kMixed = 2;

void clear(float* total, int64_t dim) {
  memset(total, 0, sizeof(float) * size_t(kMixed + dim));
  total[kHighest] = -INFINITY;
}

// Adds what was met in a range that lies behind those in `total`. Ranges begin at multiples of kRange and are always
// added one by one, so that a row's result depends neither on the rows beside it nor on who computes which range.
void fold(float* total, const float* part, int64_t dim) {
  if (!(part[kSum] > 0)) return;
  const float highest = total[kHighest] > part[kHighest] ? total[kHighest] : part[kHighest];
  const float a = exp2f(total[kHighest] - highest), b = exp2f(part[kHighest] - highest);
  total[kHighest] = highest;
  total[kSum] = a * total[kSum] + b * part[kSum];
  for (int64_t d = 0; d < dim; d++) total[kMixed + d] = a * total[kMixed + d] + b * part[kMixed + d];
}

void finish(const float* total, int64_t dim, float* y) {
  for (int64_t d = 0; d < dim; d++) y[d] = total[kMixed + d] / total[kSum];
}

// Queries begin <= i < begin + count of a task, of which `group` belong to each row, over all of its ranges: what they
// have met is added to `totals`.
template <Type T>
void attend_all(const Attention& job, const AttentionTask& task, int64_t begin, int64_t count, float* totals,
                float* scratch) {
  assert(0 < count && count <= kTaskQueries);
  const int64_t group = job.heads / job.kv_heads, size = kMixed + job.dim;
  float *parts = scratch, *rest = scratch + kTaskQueries * size;
  for (int64_t range = task.first / kRange * kRange; range < task.last; range += kRange) {
    const int64_t end = range + kRange < task.last ? range + kRange : task.last;
    Query queries[kTaskQueries];
    for (int64_t i = 0; i < count; i++) {
      const int64_t row = task.begin + (begin + i) / group, head = task.kv_head * group + (begin + i) % group;
      const int64_t seen = job.position + row + 1, first = job.window > 0 && seen > job.window ? seen - job.window : 0;
      float* part = parts + i * size;
      clear(part, job.dim);
      queries[i] = {job.q + row * job.q_stride + head * job.dim,
                    part + kMixed,
                    first > range ? first : range,
                    seen < end ? seen : end,
                    -INFINITY,
                    {}};
    }
    attend<T>(job, task.kv_head, queries, count, rest);
    for (int64_t i = 0; i < count; i++) {
      float* part = parts + i * size;
      part[kHighest] = queries[i].highest;
      for (int lane = 0; lane < kLanes; lane++) part[kSum] += queries[i].sums[lane];
      fold(totals + i * size, part, job.dim);
    }
  }
}

template <Type T>
void attention_typed(const Attention& job, const AttentionTask& task, float* scratch) {
  const int64_t group = job.heads / job.kv_heads, queries = (task.end - task.begin) * group, size = kMixed + job.dim;
  for (int64_t begin = 0; begin < queries; begin += kTaskQueries) {
    const int64_t count = queries - begin < kTaskQueries ? queries - begin : kTaskQueries;
    float* totals = task.partial ? task.partial + begin * size : scratch;
    for (int64_t i = 0; i < count; i++) clear(totals + i * size, job.dim);
    attend_all<T>(job, task, begin, count, totals, scratch + kTaskQueries * size);
    for (int64_t i = 0; i < count && !task.partial; i++) {
      const int64_t row = task.begin + (begin + i) / group, head = task.kv_head * group + (begin + i) % group;
      finish(totals + i * size, job.dim, job.y + (row * job.heads + head) * job.dim);
    }
  }
}

void attention(const Attention& job, const AttentionTask& task, float* scratch) {
  assert(0 <= task.begin && task.begin < task.end && task.end <= job.rows && job.heads % job.kv_heads == 0);
  assert(0 <= task.first && task.first % kPage == 0 && task.first < task.last && job.dim <= kMaxHeadDim);
  assert(!task.partial || (task.last - 1) / kRange == task.first / kRange);
  switch (job.type) {
    case Type::f32:
      return attention_typed<Type::f32>(job, task, scratch);
    case Type::f16:
      return attention_typed<Type::f16>(job, task, scratch);
    case Type::s8:
      return attention_typed<Type::s8>(job, task, scratch);
    case Type::bf16:
      return;
  }
}

void combine(const float* partials, int64_t ranges, int64_t stride, int64_t dim, float* y) {
  float total[kMixed + kMaxHeadDim];
  clear(total, dim);
  for (int64_t r = 0; r < ranges; r++) fold(total, partials + r * stride, dim);
  finish(total, dim, y);
}
