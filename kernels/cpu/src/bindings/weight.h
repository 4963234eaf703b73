// A weight as Python holds it: checked arrays, and the adapters that are attached to it.
#pragma once

#include <map>
#include <optional>
#include <tuple>

#include "array.h"
#include "operations.h"

namespace edgereason {

using PartArguments = std::tuple<nb::object, int64_t, float>;

// A checked weight that keeps its arrays alive: checked once, used by every token.
class Weight {
 public:
  // `order` and `bias` may be None.
  Weight(nb::handle qweight, nb::handle scales, nb::handle zeros, int64_t rows, int64_t columns, int bits,
         nb::handle order, nb::handle bias) {
    if (bits != 4 && bits != 8) bad_value("bits has to be 4 or 8, not " + std::to_string(bits));
    if (rows < 1 || columns < 1) bad_value("rows and columns have to be at least 1");
    const Array& q = hold(qweight, "qweight", 'B', 3);
    const int64_t panels = (rows + kPanel - 1) / kPanel, blocks = q.shape(1);
    q.expect({panels, blocks, kPanel * kBlock * bits / 8});
    const Array& s = hold(scales, "scales", 'e', 3);
    const int64_t groups = s.shape(1);
    s.expect({panels, groups, kPanel});
    if (groups < 1 || blocks % groups || blocks * kBlock < columns || (blocks - blocks / groups) * kBlock >= columns)
      bad_value("scales of " + std::to_string(groups) + " groups do not fit " + std::to_string(blocks) +
                " blocks of 32 columns and " + std::to_string(columns) + " columns");
    const uint8_t* z = nullptr;
    if (!zeros.is_none()) {
      const Array& array = hold(zeros, "zeros", 'B', 3);
      array.expect({panels, groups, kPanel});
      z = array.data<const uint8_t>();
    }
    packed_ = PackedWeight{q.data<const uint8_t>(),
                           s.data<const uint16_t>(),
                           z,
                           rows,
                           columns,
                           panels,
                           blocks,
                           groups,
                           bits,
                           order.is_none() ? nullptr : hold_order(order, columns)};
    hold_bias(bias);
  }

  Weight(nb::handle data, char format, nb::handle bias) {
    const Array& array = hold(data, "weight", format, 2);
    dense_ = DenseWeight{array.data<const void>(),
                         format == 'f'   ? Type::f32
                         : format == 'e' ? Type::f16
                                         : Type::bf16,
                         array.shape(0), array.shape(1)};
    hold_bias(bias);
  }

  Weight(const Weight&) = delete;

  int64_t rows() const { return packed_ ? packed_->rows : dense_->rows; }
  int64_t columns() const { return packed_ ? packed_->columns : dense_->columns; }
  const float* bias() const { return bias_; }  // null, or [rows]
  int64_t bytes() const {
    if (!packed_) return dense_->rows * dense_->columns * (dense_->type == Type::f32 ? 4 : 2);
    const int64_t scales = packed_->panels * packed_->groups * kPanel * (packed_->zeros ? 3 : 2);
    return packed_->panels * packed_->blocks * kPanel * kBlock * packed_->bits / 8 + scales;
  }

  // Replaces adapter `index` of this weight. `down` is [ranks, columns]; each of `parts` is (up [panels, rank, 16], the
  // first panel, scale), and their ranks add up to the rows of `down`.
  void attach(int64_t index, nb::handle down, const std::vector<PartArguments>& parts) {
    auto adapter = std::make_unique<HeldAdapter>();
    const Array& d = adapter->hold(down, "down", 2);
    adapter->plain.down = DenseWeight{d.data<const void>(), d.type(), d.shape(0), d.shape(1)};
    d.expect({d.shape(0), columns()});
    const int64_t panels = (rows() + kPanel - 1) / kPanel;
    int64_t ranks = 0;
    for (const auto& [up_object, first, scale] : parts) {
      const Array& up = adapter->hold(up_object, "up", 3);
      up.expect({up.shape(0), up.shape(1), kPanel});
      if (first < 0 || up.shape(0) > panels - first)
        bad_value("up has panels " + std::to_string(first) + " to " + std::to_string(first + up.shape(0)) + " of " +
                  std::to_string(panels));
      adapter->plain.parts.push_back(
          {up.data<const void>(), up.type(), up.shape(1), first, first + up.shape(0), scale});
      ranks += up.shape(1);
    }
    if (ranks != d.shape(0))
      bad_value("down has " + std::to_string(d.shape(0)) + " rows, the parts " + std::to_string(ranks));
    adapters_[index] = std::move(adapter);
  }

  void detach(int64_t index) { adapters_.erase(index); }

  // Null where this weight has none of that index.
  const Adapter* adapter(int64_t index) const {
    const auto found = adapters_.find(index);
    return found == adapters_.end() ? nullptr : &found->second->plain;
  }

  template <class F>
  void visit(F&& f) const {
    packed_ ? f(*packed_) : f(*dense_);
  }

 private:
  struct HeldAdapter {
    Adapter plain;
    std::vector<ArrayPointer> arrays;

    const Array& hold(nb::handle object, const char* name, int ndim) {
      arrays.push_back(std::make_unique<Array>(object, name, Array::kFloat, ndim));
      arrays.back()->expect_contiguous();
      return *arrays.back();
    }
  };

  const Array& hold(nb::handle object, const char* name, char format, int ndim) {
    arrays_.push_back(std::make_unique<Array>(object, name, format, ndim));
    arrays_.back()->expect_contiguous();
    return *arrays_.back();
  }

  const int32_t* hold_order(nb::handle object, int64_t columns) {
    const Array& array = hold(object, "order", 'i', 1);
    array.expect({columns});
    const auto* order = array.data<const int32_t>();
    for (int64_t k = 0; k < columns; k++)
      if (order[k] < 0 || order[k] >= columns) bad_value("order has " + std::to_string(order[k]) + ", no column");
    return order;
  }

  void hold_bias(nb::handle object) {
    if (object.is_none()) return;
    const Array& array = hold(object, "bias", 'f', 1);
    array.expect({rows()});
    bias_ = array.data<const float>();
  }

  std::vector<ArrayPointer> arrays_;
  const float* bias_ = nullptr;
  std::optional<PackedWeight> packed_;
  std::optional<DenseWeight> dense_;
  std::map<int64_t, std::unique_ptr<HeldAdapter>> adapters_;
};

}  // namespace edgereason
