// The Python module `_cpu`: checks arguments and calls the operations without the interpreter's lock.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <new>
#include <string>

#include "array.h"
#include "isa.h"
#include "operations.h"
#include "profile.h"
#include "rows.h"
#include "sampling.h"
#include "threads.h"
#include "weight.h"

namespace nb = nanobind;

namespace edgereason {
namespace {

int64_t floats(int64_t count) {
  return count * int64_t(sizeof(float));
}

void py_linear(nb::handle x_object, const Weight& weight, const Rows* rows, nb::handle add_object,
               nb::handle y_object) {
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
  if (rows && rows->total() != m)
    bad_value("rows has " + std::to_string(rows->total()) + " rows, x " + std::to_string(m));
  const AdapterRuns runs = rows ? rows->runs(weight) : AdapterRuns();
  nb::gil_scoped_release release;
  const Operation kind = m == 1 ? Operation::linear_1 : m <= kFewRows ? Operation::linear_few : Operation::linear_many;
  const Profiled profiled(kind, weight.bytes(), 2 * m * weight.rows() * weight.columns());
  const float* addend = add ? add->data<const float>() : weight.bias();
  int64_t stride = add ? add->row_stride() : 0;
  if (add && weight.bias()) {  // y holds their sum until the product is added, element by element
    add_bias(addend, stride, weight.bias(), m, weight.rows(), y.data<float>());
    addend = y.data<float>();
    stride = weight.rows();
  }
  weight.visit([&](const auto& w) { linear(w, x.data<const float>(), m, addend, stride, runs, y.data<float>()); });
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
  const Profiled profiled(Operation::embedding, floats(y.shape(0) * y.shape(1)));
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
  const Profiled profiled(Operation::norm, floats(2 * x.shape(0) * x.shape(1)));
  rms_norm(x.data<const float>(), weight.data<const float>(), eps, x.shape(0), x.shape(1), y.data<float>());
}

void py_rope(nb::handle x_object, nb::handle cos_object, nb::handle sin_object) {
  const Array x(x_object, "x", 'f', 3, true), cos(cos_object, "cos", 'f', 2), sin(sin_object, "sin", 'f', 2);
  const int64_t half = cos.shape(1);
  if (half > x.shape(2) / 2)
    bad_value("cos turns " + std::to_string(2 * half) + " elements, x has heads of " + std::to_string(x.shape(2)));
  cos.expect({x.shape(0), half});
  cos.expect_contiguous();
  sin.expect({x.shape(0), half});
  sin.expect_contiguous();
  nb::gil_scoped_release release;
  const Profiled profiled(Operation::rope, floats(2 * x.shape(0) * x.shape(1) * x.shape(2)));
  rope(x.data<float>(), x.row_stride(), cos.data<const float>(), sin.data<const float>(), x.shape(0), x.shape(1),
       x.shape(2), half);
}

void py_head_norm(nb::handle x_object, nb::handle weight_object, float eps) {
  const Array x(x_object, "x", 'f', 3, true), weight(weight_object, "weight", 'f', 1);
  weight.expect({x.shape(2)});
  weight.expect_contiguous();
  nb::gil_scoped_release release;
  const Profiled profiled(Operation::norm, floats(2 * x.shape(0) * x.shape(1) * x.shape(2)));
  head_norm(x.data<float>(), x.row_stride(), weight.data<const float>(), eps, x.shape(0), x.shape(1), x.shape(2));
}

void py_softcap(nb::handle x_object, float cap) {
  const Array x(x_object, "x", 'f', 2, true);
  x.expect_contiguous();
  if (!(cap > 0)) bad_value("cap has to be positive, not " + std::to_string(cap));
  nb::gil_scoped_release release;
  const Profiled profiled(Operation::cap, floats(2 * x.shape(0) * x.shape(1)));
  softcap(x.data<float>(), x.shape(0) * x.shape(1), cap);
}

using Gated = void (*)(const float* gate_up, int64_t rows, int64_t width, float* y);

void py_gated(Gated function, nb::handle gate_up_object, nb::handle y_object) {
  const Array gate_up(gate_up_object, "gate_up", 'f', 2), y(y_object, "y", 'f', 2, true);
  if (gate_up.shape(1) % 2) bad_value("gate_up has to have an even number of columns");
  gate_up.expect_contiguous();
  y.expect({gate_up.shape(0), gate_up.shape(1) / 2});
  y.expect_contiguous();
  nb::gil_scoped_release release;
  const Profiled profiled(Operation::gate, floats(3 * gate_up.shape(0) * gate_up.shape(1) / 2));
  function(gate_up.data<const float>(), gate_up.shape(0), gate_up.shape(1) / 2, y.data<float>());
}

// The kind of an attention, the bytes of keys and values that it reads, and its operations.
std::tuple<Operation, int64_t, int64_t> attention_costs(const std::vector<Attention>& jobs) {
  Operation kind = Operation::attention_1;
  int64_t bytes = 0, operations = 0;
  for (const Attention& job : jobs) {
    if (job.rows > 1) kind = Operation::attention_many;
    const int64_t last = job.position + job.rows, first = job.position + 1;
    const int64_t keys = job.window > 0 ? std::min(last, job.window + job.rows) : last;
    int64_t seen = job.rows * (first + last) / 2;
    if (job.window > 0) seen = std::min(seen, job.rows * job.window);
    bytes += keys * job.kv_heads * job.head_bytes / kPage;
    operations += 4 * seen * job.heads * job.dim;
  }
  return {kind, bytes, operations};
}

void py_attention(nb::handle q_object, nb::handle k_object, nb::handle v_object, int64_t layer, const Rows& rows,
                  float scale, int64_t window, float softcap, nb::handle y_object) {
  const Array q(q_object, "q", 'f', 3), k(k_object, "k", 'f', 3), v(v_object, "v", 'f', 3);
  const Array y(y_object, "y", 'f', 3, true);
  Attention job{};
  job.heads = q.shape(1);
  job.dim = q.shape(2);
  job.kv_heads = k.shape(1);
  k.expect({q.shape(0), job.kv_heads, job.dim});
  v.expect({q.shape(0), job.kv_heads, job.dim});
  y.expect({q.shape(0), job.heads, job.dim});
  y.expect_contiguous();
  if (rows.total() != q.shape(0))
    bad_value("rows has " + std::to_string(rows.total()) + " rows, q " + std::to_string(q.shape(0)));
  if (job.kv_heads < 1 || job.heads % job.kv_heads)
    bad_value("q has " + std::to_string(job.heads) + " heads, no multiple of the " + std::to_string(job.kv_heads) +
              " of k");
  if (window < 0) bad_value("window is " + std::to_string(window));
  if (!(softcap >= 0)) bad_value("softcap is " + std::to_string(softcap));
  if (job.dim < 1 || job.dim > kMaxHeadDim)
    bad_value("q has a head dimension of " + std::to_string(job.dim) + ", outside of 1 to " +
              std::to_string(kMaxHeadDim));
  job.q = q.data<const float>();
  job.q_stride = q.row_stride();
  job.y = y.data<float>();
  job.scale = scale;
  job.window = window;
  job.softcap = softcap;
  const std::vector<Attention> jobs = rows.attention(job, layer);
  nb::gil_scoped_release release;
  const auto [kind, bytes, operations] = attention_costs(jobs);
  const Profiled profiled(kind, bytes, operations);
  attention(jobs, k.data<const float>(), k.row_stride(), v.data<const float>(), v.row_stride());
}

void py_top(nb::handle logits_object, nb::handle ids_object) {
  const Array logits(logits_object, "logits", 'f', 1), ids(ids_object, "ids", 'q', 1, true);
  logits.expect_contiguous();
  ids.expect_contiguous();
  if (ids.shape(0) > logits.shape(0))
    bad_value("count is " + std::to_string(ids.shape(0)) + ", there are " + std::to_string(logits.shape(0)));
  nb::gil_scoped_release release;
  top(logits.data<const float>(), logits.shape(0), ids.shape(0), ids.data<int64_t>());
}

double py_softmax_mass(nb::handle logits_object, double highest, double temperature) {
  const Array logits(logits_object, "logits", 'f', 1);
  logits.expect_contiguous();
  if (!(temperature > 0)) bad_value("temperature is " + std::to_string(temperature));
  nb::gil_scoped_release release;
  return softmax_mass(logits.data<const float>(), logits.shape(0), highest, temperature);
}

Cache new_cache(int64_t layers, int64_t kv_heads, int64_t dim, const std::string& type) {
  if (layers < 1 || kv_heads < 1 || dim < 1 || dim > kMaxHeadDim || layers > 1 << 16 || kv_heads > 1 << 16)
    bad_value("a cache of " + std::to_string(layers) + " layers and " + std::to_string(kv_heads) + " heads of " +
              std::to_string(dim));
  if (type != "f32" && type != "f16" && type != "int8") bad_value("type has to be f32, f16 or int8, not " + type);
  return Cache({layers, kv_heads, dim, type == "f32" ? Type::f32 : type == "f16" ? Type::f16 : Type::s8});
}

void truncate_cache(Cache& cache, int64_t length) {
  if (length < 0 || length > cache.length())
    bad_value("length is " + std::to_string(length) + ", the cache holds " + std::to_string(cache.length()));
  cache.truncate(length);
}

void save_cache(const Cache& cache, nb::handle state_object) {
  const Array state(state_object, "state", 'B', 1, true);
  state.expect({cache.state_bytes(cache.length())});
  state.expect_contiguous();
  cache.save(state.data<uint8_t>());
}

void load_cache(Cache& cache, nb::handle state_object, int64_t length) {
  const Array state(state_object, "state", 'B', 1);
  if (length < 0 || length > int64_t(1) << 31) bad_value("length is " + std::to_string(length));
  state.expect({cache.state_bytes(length)});
  state.expect_contiguous();
  cache.load(state.data<const uint8_t>(), length);
}

}  // namespace
}  // namespace edgereason

NB_MODULE(_cpu, m) {
  using namespace edgereason;
#ifdef NDEBUG
  nb::set_leak_warnings(false);  // a user's globals may live until the very end
#endif
  nb::class_<Weight>(m, "Weight")
      .def(nb::init<nb::handle, nb::handle, nb::handle, int64_t, int64_t, int, nb::handle, nb::handle>(),
           nb::arg("qweight"), nb::arg("scales"), nb::arg("zeros").none(), nb::arg("rows"), nb::arg("columns"),
           nb::arg("bits"), nb::arg("order").none() = nb::none(), nb::arg("bias").none() = nb::none())
      .def_static(
          "float32", [](nb::handle data, nb::handle bias) { return new Weight(data, 'f', bias); }, nb::arg("data"),
          nb::arg("bias").none() = nb::none())
      .def_static(
          "float16", [](nb::handle data, nb::handle bias) { return new Weight(data, 'e', bias); }, nb::arg("data"),
          nb::arg("bias").none() = nb::none())
      .def_static(
          "bfloat16", [](nb::handle data, nb::handle bias) { return new Weight(data, 'H', bias); }, nb::arg("data"),
          nb::arg("bias").none() = nb::none())
      .def_prop_ro("rows", &Weight::rows)
      .def_prop_ro("columns", &Weight::columns)
      .def("attach", &Weight::attach, nb::arg("index"), nb::arg("down"), nb::arg("parts"))
      .def("detach", &Weight::detach, nb::arg("index"));
  nb::class_<Cache>(m, "KVCache")
      .def(
          "__init__",
          [](Cache* self, int64_t layers, int64_t kv_heads, int64_t head_dim, const std::string& type) {
            new (self) Cache(new_cache(layers, kv_heads, head_dim, type));
          },
          nb::arg("layers"), nb::arg("kv_heads"), nb::arg("head_dim"), nb::arg("type"))
      .def_prop_ro("length", &Cache::length)
      .def_prop_ro("type",
                   [](const Cache& c) {
                     return c.shape().type == Type::f32 ? "f32" : c.shape().type == Type::f16 ? "f16" : "int8";
                   })
      .def_prop_ro("nbytes", [](const Cache& c) { return int64_t(c.pages().size()) * c.shape().page_bytes(); })
      .def("state_bytes", &Cache::state_bytes, nb::arg("length"))
      .def("fork", [](const Cache& cache) { return Cache(cache); })
      .def("truncate", &truncate_cache, nb::arg("length"))
      .def("save", &save_cache, nb::arg("state"))
      .def("load", &load_cache, nb::arg("state"), nb::arg("length"));
  nb::class_<Rows>(m, "Rows")
      .def(nb::init<const std::vector<SegmentArguments>&>(), nb::arg("segments"))
      .def_prop_ro("total", &Rows::total)
      .def("commit", &Rows::commit);
  m.def("linear", &py_linear, nb::arg("x"), nb::arg("weight"), nb::arg("rows").none(), nb::arg("add").none(),
        nb::arg("y"));
  m.def("embedding", &py_embedding);
  m.def("rms_norm", &py_rms_norm);
  m.def("rope", &py_rope);
  m.def("head_norm", &py_head_norm);
  m.def("softcap", &py_softcap);
  m.def("swiglu", [](nb::handle gate_up, nb::handle y) { py_gated(&swiglu, gate_up, y); });
  m.def("geglu", [](nb::handle gate_up, nb::handle y) { py_gated(&geglu, gate_up, y); });
  m.def("attention", &py_attention);
  m.def("top", &py_top);
  m.def("softmax_mass", &py_softmax_mass);
  m.def("isa", [] { return std::string(kernels().name); });
  m.def("isas", [] {
    std::vector<std::string> names;
    for (const Kernels* k : available_kernels()) names.emplace_back(k->name);
    return names;
  });
  m.def("use_isa", &use_kernels);
  m.def("spans", [] { return kernels().many && spans_wanted(); });
  m.def("use_spans", &want_spans);
  m.def("cpu_features", &cpu_features);
  m.def("set_profiling", &set_profiling, nb::arg("on"));
  m.def("profile", [] {
    std::vector<std::tuple<std::string, int64_t, double, double, double>> rows;
    for (const Counter& c : profile()) rows.emplace_back(c.name, c.calls, c.seconds, c.bytes, c.operations);
    return rows;
  });
  m.def("threads", &thread_count);
  m.def("set_threads", [](int count) {
    if (count < 1) bad_value("count has to be at least 1, not " + std::to_string(count));
    nb::gil_scoped_release release;
    set_thread_count(count);
  });
}
