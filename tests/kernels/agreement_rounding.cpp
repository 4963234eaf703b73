// Rounding: every instruction set gives the scalar one's bytes, and touches nothing beyond its arrays.
#include <stdexcept>
#include <string>

#include "agreement.h"
#include "isa.h"
#include "rounding/rounding.h"

namespace edgereason {
namespace {

struct Rounded {
  Guarded<uint8_t> qweight;
  Guarded<uint16_t> scales;
  Guarded<uint8_t> zeros;
};

Rounded round_with(const Kernels& isa, Rounding job, bool symmetric) {
  const int64_t panels = (job.rows + kPanel - 1) / kPanel, per_panel = job.groups * kPanel;
  Rounded out{Guarded<uint8_t>(panels * job.groups * job.group * kPanel * job.bits / 8),
              Guarded<uint16_t>(panels * per_panel), Guarded<uint8_t>(symmetric ? 0 : panels * per_panel)};
  job.qweight = out.qweight.data();
  job.scales = out.scales.data();
  job.zeros = symmetric ? nullptr : out.zeros.data();
  use_kernels(isa.name);
  if (!round_weight(job))
    throw std::runtime_error(std::string("rounding with ") + isa.name + " found no finite values");
  return out;
}

template <class T>
void expect_same(const Guarded<T>& found, const Guarded<T>& expected, const std::string& what) {
  for (int64_t i = 0; i < expected.size(); i++)
    if (found[i] != expected[i])
      throw std::runtime_error(what + ": element " + std::to_string(i) + " is " + std::to_string(found[i]) + ", not " +
                               std::to_string(expected[i]));
}

}  // namespace

void check_rounding(Random& random) {
  Rounding job{};
  job.rows = random.integer(1, 40);
  job.columns = job.stride = random.integer(1, 300);
  job.group = 32 * random.one_of<int64_t>({1, 2, 4, 10});
  job.groups = (job.columns + job.group - 1) / job.group;
  job.bits = random.coin() ? 4 : 8;
  const Floats weight = random.normal(job.rows * job.columns, random.one_of({1e-7f, 0.02f, 1.f, 1e4f}));
  const float fractions[] = {0.75f, 0.9f, 1.f};
  const bool wide = random.coin();
  const Guarded<uint16_t> narrow = random.integers<uint16_t>(weight.size(), 0x3000, 0x4000);  // 0.125 to 2 as float16
  job.weight = wide ? static_cast<const void*>(weight.data()) : narrow.data();
  job.type = wide ? Type::f32 : random.coin() ? Type::f16 : Type::bf16;
  job.fractions = fractions;
  job.count = 3;
  const bool symmetric = random.coin();
  const Rounded expected = round_with(*scalar_kernels(), job, symmetric);
  for (const Kernels* isa : available_kernels()) {
    const Rounded found = round_with(*isa, job, symmetric);
    const std::string what = std::string("rounding, ") + isa->name;
    expect_same(found.scales, expected.scales, what + ", scales");
    expect_same(found.zeros, expected.zeros, what + ", zero points");
    expect_same(found.qweight, expected.qweight, what);
  }
}

}  // namespace edgereason
