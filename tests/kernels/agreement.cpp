// Every instruction set of this machine against the scalar one, on random shapes, without Python: for machines that are
// only emulated, and for sanitizers. The products' witness is the definition, computed in double precision.
//
//   agreement [--cases N] [--seed N] [--expect NAME,NAME,...]    the instruction sets that have to be there, best first
#include "agreement.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "cache.h"
#include "isa.h"
#include "operations.h"
#include "threads.h"

namespace edgereason {
namespace {

void expect_close(const Floats& y, const Result& expected, const std::string& what) {
  for (int64_t i = 0; i < y.size(); i++)
    if (!(std::fabs(y[i] - expected.values[i]) <= expected.tolerance[i]))
      throw std::runtime_error(what + ": element " + std::to_string(i) + " is " + std::to_string(y[i]) + ", not " +
                               std::to_string(expected.values[i]) + " +- " + std::to_string(expected.tolerance[i]));
}

}  // namespace

namespace {

Floats result_of(const char* name, int64_t size, const std::function<void(float*)>& run) {
  use_kernels(name);
  Floats y(size, NAN);
  run(y.data());
  return y;
}

}  // namespace

void compare_one(const Kernels& isa, const std::string& what, int64_t size, const std::function<void(float*)>& run,
                 const Result& expected) {
  expect_close(result_of(isa.name, size, run), expected, what + ", " + isa.name);
}

void compare(const std::string& what, int64_t size, const std::function<void(float*)>& run, const Result* expected) {
  Result reference{result_of("scalar", size, run), Floats(size)};
  if (expected) {
    expect_close(reference.values, *expected, what + ", scalar against double precision");
    reference.tolerance = Floats(size);
    std::copy(expected->tolerance.begin(), expected->tolerance.end(), reference.tolerance.begin());
  } else {
    float highest = 1e-30f;
    for (float v : reference.values) highest = std::max(highest, std::fabs(v));
    for (float& t : reference.tolerance) t = 1e-5f * highest;
  }
  for (const Kernels* isa : available_kernels()) compare_one(*isa, what, size, run, reference);
}

void expect_as_if_alone(const std::string& what, int64_t size, const std::function<void(float*)>& together,
                        const std::function<void(float*)>& alone) {
  for (const Kernels* isa : available_kernels()) {
    const Floats y = result_of(isa->name, size, together), expected = result_of(isa->name, size, alone);
    for (int64_t i = 0; i < size; i++)
      if (std::memcmp(&y[i], &expected[i], sizeof(float)) != 0)
        throw std::runtime_error(what + ", " + isa->name + ": element " + std::to_string(i) + " is " +
                                 std::to_string(y[i]) + ", alone " + std::to_string(expected[i]));
  }
}

namespace {

void check_conversions(Random&) {
  Guarded<uint16_t> halves(1 << 16);
  for (int64_t i = 0; i < halves.size(); i++) halves[i] = uint16_t(i);
  for (const Kernels* isa : available_kernels())
    for (const Type type : {Type::f16, Type::bf16}) {
      Floats y(halves.size());
      isa->to_float(halves.data(), type, halves.size(), y.data());
      for (int64_t i = 0; i < y.size(); i++) {
        const float expected = type == Type::f16 ? from_f16(halves[i]) : from_bf16(halves[i]);
        if (std::isnan(expected) ? !std::isnan(y[i]) : std::memcmp(&y[i], &expected, 4) != 0)
          throw std::runtime_error(std::string("to_float of ") + std::to_string(i) + ", " + isa->name);
      }
    }
}

// ---- row by row ----------------------------------------------------------------------------------------------------

void check_rows(Random& random) {
  const int64_t rows = random.integer(0, 20), width = random.integer(1, 200);
  const Floats x = random.normal(rows * width), weight = random.normal(width);
  compare("rms_norm of " + std::to_string(width), rows * width,
          [&](float* y) { rms_norm(x.data(), weight.data(), 1e-6f, rows, width, y); });

  const Floats gate_up = random.normal(2 * rows * width, random.one_of({1.f, 60.f}));
  compare("swiglu of " + std::to_string(width), rows * width,
          [&](float* y) { swiglu(gate_up.data(), rows, width, y); });
  compare("geglu of " + std::to_string(width), rows * width, [&](float* y) { geglu(gate_up.data(), rows, width, y); });
  compare("softcap of " + std::to_string(x.size()), x.size(), [&](float* y) {
    std::copy(x.begin(), x.end(), y);
    softcap(y, x.size(), 0.5f);
  });
}

void check_heads(Random& random) {
  const int64_t rows = random.integer(0, 20), heads = random.integer(1, 5), half = random.integer(1, 40);
  const int64_t dim = 2 * half + random.integer(0, 20), stride = heads * dim + random.integer(0, 5);
  const Floats x = random.normal(rows == 0 ? 0 : (rows - 1) * stride + heads * dim), weight = random.normal(dim);
  const Floats cos = random.normal(rows * half), sin = random.normal(rows * half);
  compare("rope of " + std::to_string(2 * half) + " of " + std::to_string(dim), x.size(), [&](float* y) {
    std::copy(x.begin(), x.end(), y);
    rope(y, stride, cos.data(), sin.data(), rows, heads, dim, half);
  });
  compare("head_norm of " + std::to_string(dim), x.size(), [&](float* y) {
    std::copy(x.begin(), x.end(), y);
    head_norm(y, stride, weight.data(), 1e-6f, rows, heads, dim);
  });
}

// ---- attention -----------------------------------------------------------------------------------------------------

// Some tokens, then more, of two layers: the results, and then what the cache holds.
void check_attention(Random& random) {
  const int64_t kv_heads = random.integer(1, 3), heads = kv_heads * random.one_of<int64_t>({1, 2, 3, 5, 7, 10}),
                dim = random.integer(1, 72);
  const CacheShape shape{2, kv_heads, dim, random.one_of({Type::f32, Type::f16, Type::s8})};
  const std::vector<int64_t> parts = {random.integer(1, 20), random.integer(1, 150), 1,
                                      random.one_of<int64_t>({1, 1, 1, 1, 1, 1, 1, 400}), 1};
  const int64_t total = std::accumulate(parts.begin(), parts.end(), int64_t(0)), layer = random.integer(0, 1);
  const int64_t window = random.one_of<int64_t>({0, 0, 1, 20, 100});
  const float cap = random.one_of({0.f, 2.f});
  const Floats q = random.normal(total * heads * dim), k = random.normal(total * kv_heads * dim);
  const Floats v = random.normal(total * kv_heads * dim);
  const auto run = [&](const std::vector<int64_t>& passes, float* y) {
    Cache cache(shape);
    for (const int64_t rows : passes) {
      const int64_t position = cache.length(), kv = position * kv_heads * dim;
      cache.reserve(rows);
      std::vector<uint8_t*> pages;
      for (const Page& page : cache.pages()) pages.push_back(page.get());
      Attention job{};
      job.q = q.data() + position * heads * dim;
      job.q_stride = heads * dim;
      job.pages = pages.data();
      job.head_bytes = shape.head_bytes();
      job.layer_offset = layer * kv_heads * job.head_bytes;
      job.type = shape.type;
      job.y = y + position * heads * dim;
      job.rows = rows;
      job.heads = heads;
      job.kv_heads = kv_heads;
      job.dim = dim;
      job.position = position;
      job.scale = 1 / std::sqrt(float(dim));
      job.window = window;
      job.softcap = cap;
      attention({job}, k.data() + kv, kv_heads * dim, v.data() + kv, kv_heads * dim);
      cache.append(rows);
    }
  };
  const std::string what = "attention, " + std::to_string(heads) + " heads of " + std::to_string(dim) + ", " +
                           std::to_string(kv_heads) + " KV heads, " + std::to_string(total) + " tokens, window " +
                           std::to_string(window);
  compare(what, total * heads * dim, [&](float* y) { run(parts, y); });
  const int64_t few = parts[0] + parts[1];
  expect_as_if_alone(
      what, few * heads * dim, [&](float* y) { run({parts[0], parts[1]}, y); },
      [&](float* y) { run(std::vector<int64_t>(size_t(few), 1), y); });
}

}  // namespace

int run(int64_t cases, uint64_t seed, const std::string& expected) {
  std::string found;
  for (const Kernels* isa : available_kernels()) found += (found.empty() ? "" : ",") + std::string(isa->name);
  if (!expected.empty() && found != expected) {
    std::fprintf(stderr, "agreement: this machine runs %s, not %s\n", found.c_str(), expected.c_str());
    return 1;
  }
  set_thread_count(3);
  Random conversions{std::mt19937_64(seed)};
  check_conversions(conversions);
  constexpr void (*kChecks[])(Random&) = {check_packed,  check_panel_range, check_dense,
                                          check_adapter, check_embedding,   check_rows,
                                          check_heads,   check_attention,   check_rounding};
  for (int64_t i = 0; i < cases; i++) {
    Random random{std::mt19937_64(seed + uint64_t(i))};
    for (const auto check : kChecks) try {
        check(random);
      } catch (const std::exception& error) {
        std::fprintf(stderr, "agreement: seed %llu: %s\n", (unsigned long long)(seed + uint64_t(i)), error.what());
        return 1;
      }
  }
  std::printf("agreement: %s agree in %lld cases\n", found.c_str(), (long long)cases);
  return 0;
}

}  // namespace edgereason

int main(int argc, char** argv) {
  int64_t cases = 100;
  uint64_t seed = 0;
  std::string expected;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string option = argv[i];
    if (option == "--cases") cases = std::atoll(argv[i + 1]);
    if (option == "--seed") seed = std::strtoull(argv[i + 1], nullptr, 10);
    if (option == "--expect") expected = argv[i + 1];
  }
  return edgereason::run(cases, seed, expected);
}
