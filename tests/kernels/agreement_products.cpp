// The products, with the definition in double precision as their witness.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "agreement.h"
#include "isa.h"
#include "operations.h"

namespace edgereason {
namespace {

// A float array stored as f32, f16 or bf16, and its values.
struct Stored {
  Type type;
  Floats values;
  Guarded<uint16_t> halves{0};

  Stored(Random& random, Type type, int64_t size) : type(type), values(random.normal(size)) {
    if (type == Type::f32) return;
    // Exponents about that of 1, so that sums keep their precision.
    const int64_t one = type == Type::f16 ? 15 : 127, shift = type == Type::f16 ? 10 : 7;
    halves = random.integers<uint16_t>(size, (one - 4) << shift, (one + 1) << shift);
    for (int64_t i = 0; i < size; i++) {
      if (random.coin()) halves[i] |= 0x8000;
      values[i] = type == Type::f16 ? from_f16(halves[i]) : from_bf16(halves[i]);
    }
  }
  const void* data() const { return type == Type::f32 ? static_cast<const void*>(values.data()) : halves.data(); }
};

struct Weight4Or8 {
  PackedWeight packed;
  Guarded<uint8_t> q{0}, zeros{0}, stored{0};  // q [padded rows, padded columns]
  Guarded<uint16_t> scales{0};
  Guarded<int32_t> order{0};
  int64_t padded_columns, group;

  explicit Weight4Or8(Random& random) {
    const int bits = random.one_of({4, 8});
    const int64_t rows = random.integer(1, 70), columns = random.integer(1, 400);
    const int64_t whole = (columns + kBlock - 1) / kBlock * kBlock;
    group = random.one_of({int64_t(32), int64_t(64), int64_t(128), whole});
    padded_columns = (columns + group - 1) / group * group;
    const int64_t panels = (rows + kPanel - 1) / kPanel, groups = padded_columns / group, top = (1 << bits) - 1;
    q = random.integers<uint8_t>(panels * kPanel * padded_columns, 0, top);
    scales = random.integers<uint16_t>(panels * groups * kPanel, 0x2000, 0x2fff);  // 2^-7 to 2^-3
    for (uint16_t& s : scales) s = uint16_t(s | (random.coin() ? 0x8000 : 0));
    if (random.coin()) zeros = random.integers<uint8_t>(panels * groups * kPanel, 0, top);
    stored = Guarded<uint8_t>(panels * kPanel * padded_columns * bits / 8);
    if (random.coin()) {
      order = Guarded<int32_t>(columns);
      std::iota(order.begin(), order.end(), 0);
      std::shuffle(order.begin(), order.end(), random.engine);
    }
    packed = PackedWeight{};
    packed.qweight = stored.data();
    packed.scales = scales.data();
    packed.zeros = zeros.size() ? zeros.data() : nullptr;
    packed.rows = rows;
    packed.columns = columns;
    packed.panels = panels;
    packed.blocks = padded_columns / kBlock;
    packed.groups = groups;
    packed.bits = bits;
    packed.order = order.size() ? order.data() : nullptr;
    pack();
  }

  // As kernels.h says where the values are.
  void pack() {
    const int64_t blocks = packed.blocks, block_bytes = kPanel * kBlock * packed.bits / 8;
    for (int64_t n = 0; n < packed.panels * kPanel; n++)
      for (int64_t k = 0; k < padded_columns; k++) {
        const int64_t in_block = k % kBlock, r = n % kPanel, j = in_block % 4;
        uint8_t* block = stored.data() + (n / kPanel * blocks + k / kBlock) * block_bytes;
        const uint8_t value = q[n * padded_columns + k];
        if (packed.bits == 8)
          block[in_block / 4 * 64 + 4 * r + j] = value;
        else
          block[in_block / 8 * 64 + 4 * r + j] |= uint8_t(in_block % 8 < 4 ? value : value << 4);
      }
  }

  int64_t input(int64_t k) const { return packed.order ? packed.order[k] : k; }  // which one the stored input k is

  double value(int64_t n, int64_t k) const {
    const int64_t index = (n / kPanel * packed.groups + k / group) * kPanel + n % kPanel;
    return double(from_f16(scales[index])) * (q[n * padded_columns + k] - zero(index));
  }

  int zero(int64_t index) const { return packed.zeros ? packed.zeros[index] : 1 << (packed.bits - 1); }

  // The value that products of many rows use: w8 times the scale of a span of 128 inputs.
  double value_in_span(int64_t n, int64_t k) const {
    const auto index = [&](int64_t g) { return (n / kPanel * packed.groups + g) * kPanel + n % kPanel; };
    const int64_t first = k / kSpan * kSpan, last = std::min(padded_columns, first + kSpan) - 1, own = index(k / group);
    float s = 0;
    for (int64_t g = first / group; g <= last / group; g++)
      s = std::max(s, std::fabs(from_f16(scales[index(g)])) * float(std::max(zero(index(g)), 15 - zero(index(g)))));
    const double b = double(std::nearbyintf(from_f16(scales[own]) * (120 * 256 / s)));
    const double w8 = std::floor((q[n * padded_columns + k] - zero(own)) * b / 256 + 0.5);
    if (std::fabs(w8) > 120) throw std::runtime_error("a weight is beyond 120");
    return w8 * double(s) / 120;
  }
};

// Activations as the kernels round them: to 127ths of the largest of each `group` inputs.
std::vector<double> rounded(const Floats& x, int64_t columns, int64_t group) {
  std::vector<double> values(size_t(x.size()));
  for (int64_t row = 0; row < x.size(); row += columns)
    for (int64_t k = 0; k < columns; k += group) {
      const int64_t first = row + k, last = row + std::min<int64_t>(columns, k + group);
      float top = 0;
      for (int64_t i = first; i < last; i++) top = std::max(top, std::fabs(x[i]));
      const float inverse = top > 1e-30f ? 127.f / top : 0.f;
      for (int64_t i = first; i < last; i++)
        values[size_t(i)] = double(std::nearbyintf(x[i] * inverse)) * double(top / 127.f);
    }
  return values;
}

// sum_k x [m, k] w(n, k) + add [m, n] by definition.
template <class X, class W>
Result product_of(const X& x, const W& w, int64_t m, int64_t rows, int64_t columns, const Floats* add,
                  int64_t add_stride) {
  Result result{Floats(m * rows), Floats(m * rows)};
  for (int64_t i = 0; i < m; i++)
    for (int64_t n = 0; n < rows; n++) {
      double sum = add ? double((*add)[i * add_stride + n]) : 0, magnitude = std::fabs(sum);
      for (int64_t k = 0; k < columns; k++) {
        const double term = double(x[i * columns + k]) * w(n, k);
        sum += term;
        magnitude += std::fabs(term);
      }
      result.values[i * rows + n] = float(sum);
      result.tolerance[i * rows + n] = float(4e-6 * magnitude + 1e-30);
    }
  return result;
}

std::string shape_of(int64_t m, int64_t rows, int64_t columns) {
  return std::to_string(m) + " x " + std::to_string(columns) + " times " + std::to_string(rows);
}

struct Addend {
  int64_t stride;
  Floats values;

  Addend(Random& random, int64_t m, int64_t rows)
      : stride(random.one_of({int64_t(0), rows, rows + 3})),
        values(random.normal(m == 0 ? 0 : (m - 1) * stride + rows)) {}
};

}  // namespace

void check_packed(Random& random) {
  const Weight4Or8 weight(random);
  const PackedWeight& w = weight.packed;
  const int64_t m = random.coin() ? random.integer(0, kFewRows) : random.integer(kFewRows + 1, 70);
  Floats x = random.normal(m * w.columns);
  for (int64_t i = 0; i < m; i++) {
    const float magnitude = random.one_of({1.f, 1e-3f, 50.f, 0.f, 1e-33f});
    for (int64_t k = 0; k < w.columns; k++) x[i * w.columns + k] *= magnitude;
  }
  Floats stored_order(x.size());
  for (int64_t i = 0; i < x.size(); i++) stored_order[i] = x[i - i % w.columns + weight.input(i % w.columns)];
  const Addend add(random, m, w.rows);
  const bool with_add = random.coin();
  const std::string what = "packed, " + std::to_string(w.bits) + " bits, " + std::to_string(w.groups) + " groups" +
                           (w.zeros ? ", zeros, " : ", ") + shape_of(m, w.rows, w.columns);
  const auto run = [&](float* y) { linear(w, x.data(), m, with_add ? add.values.data() : nullptr, add.stride, {}, y); };
  const auto expected = [&](int64_t group, auto&& value) {
    return product_of(rounded(stored_order, w.columns, group), value, m, w.rows, w.columns,
                      with_add ? &add.values : nullptr, add.stride);
  };
  const Result few = expected(kBlock, [&](int64_t n, int64_t k) { return weight.value(n, k); });
  if (m <= kFewRows)
    expect_as_if_alone(what, m * w.rows, run, [&](float* y) {
      for (int64_t i = 0; i < m; i++)
        linear(w, x.data() + i * w.columns, 1, with_add ? add.values.data() + i * add.stride : nullptr, 0, {},
               y + i * w.rows);
    });
  if (m <= kFewRows || w.bits == 8) return compare(what, m * w.rows, run, &few);
  const Result many = expected(kSpan, [&](int64_t n, int64_t k) { return weight.value_in_span(n, k); });
  for (const Kernels* isa : available_kernels()) compare_one(*isa, what, m * w.rows, run, isa->many ? many : few);
}

// A part of the panels: nothing else of y may change.
void check_panel_range(Random& random) {
  const Weight4Or8 weight(random);
  PackedWeight w = weight.packed;
  w.order = nullptr;  // `linear` puts the inputs in order, no kernel does
  const bool many = random.coin();
  const int64_t m = many ? random.integer(kFewRows + 1, 40) : random.integer(1, kFewRows);
  const int64_t begin = random.integer(0, w.panels), end = random.integer(begin, w.panels);
  const int64_t spans = (w.blocks + kSpanBlocks - 1) / kSpanBlocks;
  const Floats x = random.normal(m * w.columns);
  Floats whole(m * w.rows);
  for (const Kernels* isa : available_kernels()) {
    const ManyRows* spanned = many && w.bits == 4 ? isa->many : nullptr;
    const int32_t factor = w.zeros ? -1 : -(w.bits == 4 ? 8 : 128 - isa->byte_origin);
    const int64_t tile_rows = spanned ? spanned->tile_rows : isa->tile_rows;
    const int64_t tile_bytes = tile_rows * (spanned ? spans * kSpanRowBytes : w.blocks * kTileRowBytes);
    Guarded<uint8_t> tiles((m + tile_rows - 1) / tile_rows * tile_bytes);
    for (int64_t row = 0; row < m; row += tile_rows) {
      const int rows = int(std::min(tile_rows, m - row));
      const float* from = x.data() + row * w.columns;
      uint8_t* tile = tiles.data() + row / tile_rows * tile_bytes;
      if (spanned)
        spanned->quantize(from, rows, w.columns, spans, tile);
      else
        isa->quantize(from, rows, w.columns, w.blocks, factor, tile);
    }
    // Their ends are aligned to a page, and so are their starts to 64.
    Guarded<uint8_t> scratch(spanned ? spans * 2 * kPanelSpanBytes : w.blocks * 2 * kPanel * kBlock);
    use_kernels(isa->name);
    linear(w, x.data(), m, nullptr, 0, {}, whole.data());
    Floats y(m * w.rows, NAN);
    (spanned ? spanned->packed : isa->packed)({w, tiles.data(), m, nullptr, 0, y.data()}, begin, end, scratch.data());
    for (int64_t i = 0; i < y.size(); i++) {
      const int64_t panel = i % w.rows / kPanel;
      const bool inside = panel >= begin && panel < end;
      if (inside ? y[i] != whole[i] : !std::isnan(y[i]))
        throw std::runtime_error(std::string("panels of a product, ") + isa->name + ", " +
                                 shape_of(m, w.rows, w.columns));
    }
  }
}

void check_dense(Random& random) {
  const int64_t m = random.integer(0, 20), rows = random.integer(1, 40), columns = random.integer(1, 150);
  const Type type = random.one_of({Type::f32, Type::f16, Type::bf16});
  const Stored w(random, type, rows * columns);
  const Floats x = random.normal(m * columns);
  const Addend add(random, m, rows);
  const bool with_add = random.coin();
  const auto value = [&](int64_t n, int64_t k) { return double(w.values[n * columns + k]); };
  const Result expected = product_of(x, value, m, rows, columns, with_add ? &add.values : nullptr, add.stride);
  const auto run = [&](int64_t first, int64_t count, float* y) {
    linear(DenseWeight{w.data(), type, rows, columns}, x.data() + first * columns, count,
           with_add ? add.values.data() + first * add.stride : nullptr, add.stride, {}, y);
  };
  const auto together = [&](float* y) { run(0, m, y); };
  const std::string what = "dense, " + shape_of(m, rows, columns);
  compare(what, m * rows, together, &expected);
  expect_as_if_alone(what, m * rows, together, [&](float* y) {
    for (int64_t i = 0; i < m; i++) run(i, 1, y + i * rows);
  });
}

// A product with an adapter for some of its rows and some of its panels.
void check_adapter(Random& random) {
  const int64_t m = random.integer(1, 20), rows = random.integer(1, 70), columns = random.integer(1, 60);
  const int64_t panels = (rows + kPanel - 1) / kPanel, rank = random.integer(1, 9);
  const int64_t first = random.integer(0, panels - 1), last = random.integer(first, panels);
  const int64_t begin = random.integer(0, m), end = random.integer(begin, m);
  const Type type = random.one_of({Type::f32, Type::f16, Type::bf16});
  const Stored w(random, type, rows * columns), down(random, type, rank * columns);
  const Stored up(random, type, (last - first) * rank * kPanel);
  const Floats x = random.normal(m * columns);
  const Adapter adapter{{down.data(), type, rank, columns}, {{up.data(), type, rank, first, last, 0.5f}}};
  const auto weight = [&](int64_t n, int64_t k) { return double(w.values[n * columns + k]); };
  Result expected = product_of(x, weight, m, rows, columns, nullptr, 0);
  for (int64_t i = begin; i < end; i++)
    for (int64_t n = first * kPanel; n < std::min(rows, last * kPanel); n++)
      for (int64_t r = 0; r < rank; r++) {
        double h = 0, magnitude = 0;
        for (int64_t k = 0; k < columns; k++) {
          const double term = double(x[i * columns + k]) * double(down.values[r * columns + k]);
          h += term;
          magnitude += std::fabs(term);
        }
        const double factor = 0.5 * double(up.values[((n / kPanel - first) * rank + r) * kPanel + n % kPanel]);
        expected.values[i * rows + n] += float(factor * h);
        expected.tolerance[i * rows + n] += float(8e-6 * std::fabs(factor) * magnitude);
      }
  const auto run = [&](int64_t first, int64_t count, const AdapterRuns& runs, float* y) {
    linear(DenseWeight{w.data(), type, rows, columns}, x.data() + first * columns, count, nullptr, 0, runs, y);
  };
  const auto together = [&](float* y) { run(0, m, {{&adapter, begin, end}}, y); };
  const std::string what = "adapter, " + shape_of(m, rows, columns);
  compare(what, m * rows, together, &expected);
  expect_as_if_alone(what, m * rows, together, [&](float* y) {
    const AdapterRuns all = {{&adapter, 0, 1}};
    for (int64_t i = 0; i < m; i++) run(i, 1, begin <= i && i < end ? all : AdapterRuns{}, y + i * rows);
  });
}

void check_embedding(Random& random) {
  const Weight4Or8 weight(random);
  const PackedWeight& w = weight.packed;
  const Guarded<int64_t> ids = random.integers<int64_t>(random.integer(0, 9), 0, w.rows - 1);
  Result expected{Floats(ids.size() * w.columns), Floats(ids.size() * w.columns, 0)};
  for (int64_t i = 0; i < expected.values.size(); i++)
    expected.values[i - i % w.columns + weight.input(i % w.columns)] =
        float(weight.value(ids[i / w.columns], i % w.columns));
  compare("embedding", expected.values.size(), [&](float* y) { embedding(w, ids.data(), ids.size(), y); }, &expected);
}

}  // namespace edgereason
