// The Python module `_cpu`: takes arrays through the buffer protocol, checks them, and calls the operations without the
// interpreter's lock. Every message names the argument.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>

#include "isa.h"
#include "operations.h"
#include "threads.h"

namespace nb = nanobind;

namespace edgereason {
namespace {

[[noreturn]] void bad_value(const std::string& message) {
  throw nb::value_error(message.c_str());
}
[[noreturn]] void bad_type(const std::string& message) {
  throw nb::type_error(message.c_str());
}

std::string shape_text(const int64_t* shape, int ndim) {
  std::string text = "[";
  for (int i = 0; i < ndim; i++) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

// A borrowed array. All dimensions but the first are contiguous.
class Array {
 public:
  // `format` is the element's letter in Python's struct module: B, H, e, f or q.
  Array(nb::handle object, const char* name, char format, int ndim, bool writable = false) : name_(name) {
    const int flags = PyBUF_STRIDES | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(object.ptr(), &view_, flags) != 0) {
      PyErr_Clear();
      bad_type(name_ + " has to be a" + (writable ? " writable" : "n") + " array");
    }
    try {
      check(format, ndim);
    } catch (...) {
      PyBuffer_Release(&view_);
      throw;
    }
  }
  ~Array() { PyBuffer_Release(&view_); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  template <class T>
  T* data() const {
    return static_cast<T*>(view_.buf);
  }
  int64_t shape(int i) const { return int64_t(view_.shape[i]); }
  int64_t row_stride() const { return shape(0) > 1 ? int64_t(view_.strides[0] / view_.itemsize) : row_size(); }

  void expect(std::initializer_list<int64_t> shape) const {
    if (std::equal(shape.begin(), shape.end(), view_.shape)) return;
    std::vector<int64_t> found(view_.shape, view_.shape + view_.ndim);
    bad_value(name_ + " has to be " + shape_text(shape.begin(), int(shape.size())) + ", not " +
              shape_text(found.data(), view_.ndim));
  }
  void expect_contiguous() const {
    if (row_stride() != row_size()) bad_value(name_ + " has to be contiguous");
  }

 private:
  int64_t row_size() const {
    int64_t size = 1;
    for (int i = 1; i < view_.ndim; i++) size *= shape(i);
    return size;
  }

  void check(char format, int ndim) const {
    // numpy names 64-bit integers "l" or "q", whichever is the platform's.
    const char* f = view_.format ? view_.format : "B";
    const bool matches = f[1] == 0 && (f[0] == format || (format == 'q' && f[0] == 'l' && view_.itemsize == 8));
    if (!matches) {
      const char* types[] = {"B", "uint8", "H", "uint16", "e", "float16", "f", "float32", "q", "int64"};
      std::string wanted;
      for (int i = 0; i < 10; i += 2)
        if (types[i][0] == format) wanted = types[i + 1];
      bad_type(name_ + " has to be " + wanted);
    }
    if (view_.ndim != ndim)
      bad_value(name_ + " has to have " + std::to_string(ndim) + " dimensions, not " + std::to_string(view_.ndim));
    int64_t expected = int64_t(view_.itemsize);
    for (int i = ndim - 1; i > 0; i--) {
      if (shape(i) > 1 && view_.strides[i] != expected) bad_value(name_ + " has to be contiguous");
      expected *= shape(i);
    }
    if (shape(0) > 1 && (view_.strides[0] < expected || view_.strides[0] % view_.itemsize))
      bad_value(name_ + " has to be contiguous");
  }

  std::string name_;
  Py_buffer view_;
};

using ArrayPointer = std::unique_ptr<Array>;

// A checked weight that keeps its arrays alive: checked once, used by every token.
class Weight {
 public:
  Weight(nb::handle qweight, nb::handle scales, nb::handle zeros, int64_t rows, int64_t columns, int bits) {
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
    packed_ =
        PackedWeight{q.data<const uint8_t>(), s.data<const uint16_t>(), z, rows, columns, panels, blocks, groups, bits};
  }

  Weight(nb::handle data, char format) {
    const Array& array = hold(data, "weight", format, 2);
    dense_ = DenseWeight{array.data<const void>(),
                         format == 'f'   ? Type::f32
                         : format == 'e' ? Type::f16
                                         : Type::bf16,
                         array.shape(0), array.shape(1)};
  }

  Weight(const Weight&) = delete;

  int64_t rows() const { return packed_ ? packed_->rows : dense_->rows; }
  int64_t columns() const { return packed_ ? packed_->columns : dense_->columns; }

  template <class F>
  void visit(F&& f) const {
    packed_ ? f(*packed_) : f(*dense_);
  }

 private:
  const Array& hold(nb::handle object, const char* name, char format, int ndim) {
    arrays_.push_back(std::make_unique<Array>(object, name, format, ndim));
    arrays_.back()->expect_contiguous();
    return *arrays_.back();
  }

  std::vector<ArrayPointer> arrays_;
  std::optional<PackedWeight> packed_;
  std::optional<DenseWeight> dense_;
};

void py_linear(nb::handle x_object, const Weight& weight, nb::handle add_object, nb::handle y_object) {
  const Array x(x_object, "x", 'f', 2), y(y_object, "y", 'f', 2, true);
  const int64_t m = x.shape(0);
  x.expect({m, weight.columns()});
  x.expect_contiguous();
  y.expect({m, weight.rows()});
  y.expect_contiguous();
  ArrayPointer add;
  if (!add_object.is_none()) {
    add = std::make_unique<Array>(add_object, "add", 'f', 2);
    add->expect({m, weight.rows()});
  }
  nb::gil_scoped_release release;
  weight.visit([&](const auto& w) {
    linear(w, x.data<const float>(), m, add ? add->data<const float>() : nullptr, add ? add->row_stride() : 0,
           y.data<float>());
  });
}

void py_embedding(nb::handle ids_object, const Weight& weight, nb::handle y_object) {
  const Array ids(ids_object, "ids", 'q', 1), y(y_object, "y", 'f', 2, true);
  ids.expect_contiguous();
  y.expect({ids.shape(0), weight.columns()});
  const auto* id = ids.data<const int64_t>();
  for (int64_t i = 0; i < ids.shape(0); i++)
    if (id[i] < 0 || id[i] >= weight.rows())
      bad_value("ids has " + std::to_string(id[i]) + ", outside of 0 to " + std::to_string(weight.rows() - 1));
  nb::gil_scoped_release release;
  weight.visit([&](const auto& w) { embedding(w, id, ids.shape(0), y.data<float>()); });
}

void py_rms_norm(nb::handle x_object, nb::handle weight_object, float eps, nb::handle y_object) {
  const Array x(x_object, "x", 'f', 2), weight(weight_object, "weight", 'f', 1), y(y_object, "y", 'f', 2, true);
  x.expect_contiguous();
  weight.expect({x.shape(1)});
  weight.expect_contiguous();
  y.expect({x.shape(0), x.shape(1)});
  y.expect_contiguous();
  nb::gil_scoped_release release;
  rms_norm(x.data<const float>(), weight.data<const float>(), eps, x.shape(0), x.shape(1), y.data<float>());
}

void py_rope(nb::handle x_object, nb::handle cos_object, nb::handle sin_object) {
  const Array x(x_object, "x", 'f', 3, true), cos(cos_object, "cos", 'f', 2), sin(sin_object, "sin", 'f', 2);
  if (x.shape(2) % 2) bad_value("x has to have an even head dimension, not " + std::to_string(x.shape(2)));
  cos.expect({x.shape(0), x.shape(2) / 2});
  cos.expect_contiguous();
  sin.expect({x.shape(0), x.shape(2) / 2});
  sin.expect_contiguous();
  nb::gil_scoped_release release;
  rope(x.data<float>(), x.row_stride(), cos.data<const float>(), sin.data<const float>(), x.shape(0), x.shape(1),
       x.shape(2));
}

void py_swiglu(nb::handle gate_up_object, nb::handle y_object) {
  const Array gate_up(gate_up_object, "gate_up", 'f', 2), y(y_object, "y", 'f', 2, true);
  if (gate_up.shape(1) % 2) bad_value("gate_up has to have an even number of columns");
  gate_up.expect_contiguous();
  y.expect({gate_up.shape(0), gate_up.shape(1) / 2});
  y.expect_contiguous();
  nb::gil_scoped_release release;
  swiglu(gate_up.data<const float>(), gate_up.shape(0), gate_up.shape(1) / 2, y.data<float>());
}

void py_attention(nb::handle q_object, nb::handle k_object, nb::handle v_object, nb::handle keys_object,
                  nb::handle values_object, bool half, int64_t position, float scale, nb::handle y_object) {
  const char format = half ? 'e' : 'f';
  const Array q(q_object, "q", 'f', 3), k(k_object, "k", 'f', 3), v(v_object, "v", 'f', 3);
  const Array keys(keys_object, "cache.keys", format, 4, true), values(values_object, "cache.values", format, 3, true);
  const Array y(y_object, "y", 'f', 3, true);
  Attention job{};
  job.rows = q.shape(0);
  job.heads = q.shape(1);
  job.dim = q.shape(2);
  job.kv_heads = k.shape(1);
  job.capacity = values.shape(1);
  job.position = position;
  k.expect({job.rows, job.kv_heads, job.dim});
  v.expect({job.rows, job.kv_heads, job.dim});
  y.expect({job.rows, job.heads, job.dim});
  y.expect_contiguous();
  values.expect({job.kv_heads, job.capacity, job.dim});
  values.expect_contiguous();
  keys.expect({job.kv_heads, job.capacity / kKeys, job.dim, kKeys});
  keys.expect_contiguous();
  if (job.kv_heads < 1 || job.heads % job.kv_heads)
    bad_value("q has " + std::to_string(job.heads) + " heads, no multiple of the " + std::to_string(job.kv_heads) +
              " of k");
  if (job.dim < 1 || job.dim > kMaxHeadDim)
    bad_value("q has a head dimension of " + std::to_string(job.dim) + ", outside of 1 to " +
              std::to_string(kMaxHeadDim));
  if (job.capacity % kKeys || position < 0 || position > job.capacity - job.rows)
    bad_value("position " + std::to_string(position) + " and " + std::to_string(job.rows) +
              " rows do not fit a cache of " + std::to_string(job.capacity));
  job.q = q.data<const float>();
  job.q_stride = q.row_stride();
  job.k = keys.data<void>();
  job.v = values.data<void>();
  job.type = half ? Type::f16 : Type::f32;
  job.y = y.data<float>();
  job.scale = scale;
  nb::gil_scoped_release release;
  attention(job, k.data<const float>(), k.row_stride(), v.data<const float>(), v.row_stride());
}

}  // namespace
}  // namespace edgereason

NB_MODULE(_cpu, m) {
  using namespace edgereason;
  nb::class_<Weight>(m, "Weight")
      .def(nb::init<nb::handle, nb::handle, nb::handle, int64_t, int64_t, int>(), nb::arg("qweight"), nb::arg("scales"),
           nb::arg("zeros").none(), nb::arg("rows"), nb::arg("columns"), nb::arg("bits"))
      .def_static("float32", [](nb::handle data) { return new Weight(data, 'f'); })
      .def_static("float16", [](nb::handle data) { return new Weight(data, 'e'); })
      .def_static("bfloat16", [](nb::handle data) { return new Weight(data, 'H'); })
      .def_prop_ro("rows", &Weight::rows)
      .def_prop_ro("columns", &Weight::columns);
  m.def("linear", &py_linear, nb::arg("x"), nb::arg("weight"), nb::arg("add").none(), nb::arg("y"));
  m.def("embedding", &py_embedding);
  m.def("rms_norm", &py_rms_norm);
  m.def("rope", &py_rope);
  m.def("swiglu", &py_swiglu);
  m.def("attention", &py_attention);
  m.def("isa", [] { return std::string(kernels().name); });
  m.def("isas", [] {
    std::vector<std::string> names;
    for (const Kernels* k : available_kernels()) names.emplace_back(k->name);
    return names;
  });
  m.def("use_isa", &use_kernels);
  m.def("cpu_features", &cpu_features);
  m.def("threads", &thread_count);
  m.def("set_threads", [](int count) {
    if (count < 1) bad_value("count has to be at least 1, not " + std::to_string(count));
    nb::gil_scoped_release release;
    set_thread_count(count);
  });
}
