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
#include "rounding/rounding.h"
#include "rows.h"
#include "sampling.h"
#include "tape.h"
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
  const float* addend = add ? add->data<const float>() : weight.bias();
  const int64_t stride = add ? add->row_stride() : 0;
  const auto compute = [&weight, m, addend, stride, sum = add && weight.bias(), adapted = rows != nullptr,
                        in = x.data<const float>(), out = y.data<float>()](const Rows* now) {
    const Operation kind = m == 1          ? Operation::linear_1
                           : m <= kFewRows ? Operation::linear_few
                                           : Operation::linear_many;
    const Profiled profiled(kind, weight.bytes(), 2 * m * weight.rows() * weight.columns());
    // Where there are both, y holds bias and addend until the product is added, element by element.
    if (sum) add_bias(addend, stride, weight.bias(), m, weight.rows(), out);
    const AdapterRuns runs = adapted ? now->runs(weight) : AdapterRuns();
    weight.visit([&](const auto& w) { linear(w, in, m, sum ? out : addend, sum ? weight.rows() : stride, runs, out); });
  };
  perform({&x, add.get(), &y}, nb::find(weight), rows, compute);
}

void py_embedding(nb::handle ids_object, const Weight& weight, nb::handle y_object) {
  const Array ids(ids_object, "ids", 'q', 1), y(y_object, "y", 'f', 2, true);
  ids.expect_contiguous();
  y.expect({ids.shape(0), weight.columns()});
  const auto compute = [&weight, id = ids.data<const int64_t>(), count = ids.shape(0),
                        out = y.data<float>()](const Rows*) {
    for (int64_t i = 0; i < count; i++)
      if (id[i] < 0 || id[i] >= weight.rows())
        bad_value("ids has " + std::to_string(id[i]) + ", outside of 0 to " + std::to_string(weight.rows() - 1));
    const Profiled profiled(Operation::embedding, floats(count * weight.columns()));
    weight.visit([&](const auto& w) { embedding(w, id, count, out); });
  };
  perform({&ids, &y}, nb::find(weight), nullptr, compute);
}

void py_rms_norm(nb::handle x_object, nb::handle weight_object, float eps, nb::handle y_object) {
  const Array x(x_object, "x", 'f', 2), weight(weight_object, "weight", 'f', 1), y(y_object, "y", 'f', 2, true);
  x.expect_contiguous();
  weight.expect({x.shape(1)});
  weight.expect_contiguous();
  y.expect({x.shape(0), x.shape(1)});
  y.expect_contiguous();
  const auto compute = [in = x.data<const float>(), scale = weight.data<const float>(), eps, rows = x.shape(0),
                        width = x.shape(1), out = y.data<float>()](const Rows*) {
    const Profiled profiled(Operation::norm, floats(2 * rows * width));
    rms_norm(in, scale, eps, rows, width, out);
  };
  perform({&x, &y}, weight_object, nullptr, compute);
}

void py_rope(nb::handle x_object, nb::handle cos_object, nb::handle sin_object) {
  const Array x(x_object, "x", 'f', 3, true), cos(cos_object, "cos", 'f', 2), sin(sin_object, "sin", 'f', 2);
  const int64_t half = cos.shape(1);
  if (half > x.shape(2) / 2)
    bad_value("cos rotates " + std::to_string(2 * half) + " elements, x has heads of " + std::to_string(x.shape(2)));
  cos.expect({x.shape(0), half});
  cos.expect_contiguous();
  sin.expect({x.shape(0), half});
  sin.expect_contiguous();
  const auto compute = [at = x.data<float>(), stride = x.row_stride(), c = cos.data<const float>(),
                        s = sin.data<const float>(), rows = x.shape(0), heads = x.shape(1), dim = x.shape(2),
                        half](const Rows*) {
    const Profiled profiled(Operation::rope, floats(2 * rows * heads * dim));
    rope(at, stride, c, s, rows, heads, dim, half);
  };
  perform({&x, &cos, &sin}, {}, nullptr, compute);
}

void py_head_norm(nb::handle x_object, nb::handle weight_object, float eps) {
  const Array x(x_object, "x", 'f', 3, true), weight(weight_object, "weight", 'f', 1);
  weight.expect({x.shape(2)});
  weight.expect_contiguous();
  const auto compute = [at = x.data<float>(), stride = x.row_stride(), scale = weight.data<const float>(), eps,
                        rows = x.shape(0), heads = x.shape(1), dim = x.shape(2)](const Rows*) {
    const Profiled profiled(Operation::norm, floats(2 * rows * heads * dim));
    head_norm(at, stride, scale, eps, rows, heads, dim);
  };
  perform({&x}, weight_object, nullptr, compute);
}

void py_softcap(nb::handle x_object, float cap) {
  const Array x(x_object, "x", 'f', 2, true);
  x.expect_contiguous();
  if (!(cap > 0)) bad_value("cap has to be positive, not " + std::to_string(cap));
  const auto compute = [at = x.data<float>(), count = x.shape(0) * x.shape(1), cap](const Rows*) {
    const Profiled profiled(Operation::cap, floats(2 * count));
    softcap(at, count, cap);
  };
  perform({&x}, {}, nullptr, compute);
}

using Gated = void (*)(const float* gate_up, int64_t rows, int64_t width, float* y);

void py_gated(Gated function, nb::handle gate_up_object, nb::handle y_object) {
  const Array gate_up(gate_up_object, "gate_up", 'f', 2), y(y_object, "y", 'f', 2, true);
  if (gate_up.shape(1) % 2) bad_value("gate_up has to have an even number of columns");
  gate_up.expect_contiguous();
  y.expect({gate_up.shape(0), gate_up.shape(1) / 2});
  y.expect_contiguous();
  const auto compute = [function, in = gate_up.data<const float>(), rows = gate_up.shape(0),
                        width = gate_up.shape(1) / 2, out = y.data<float>()](const Rows*) {
    const Profiled profiled(Operation::gate, floats(3 * rows * width));
    function(in, rows, width, out);
  };
  perform({&gate_up, &y}, {}, nullptr, compute);
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
  const auto compute = [job, layer, keys = k.data<const float>(), k_stride = k.row_stride(),
                        values = v.data<const float>(), v_stride = v.row_stride()](const Rows* now) {
    const std::vector<Attention> jobs = now->attention(job, layer);
    const auto [kind, bytes, operations] = attention_costs(jobs);
    const Profiled profiled(kind, bytes, operations);
    attention(jobs, keys, k_stride, values, v_stride);
  };
  perform({&q, &k, &v, &y}, {}, &rows, compute);
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

bool py_round(nb::handle weight_object, int64_t group, int bits, nb::handle fractions_object, nb::handle qweight_object,
              nb::handle scales_object, nb::handle zeros_object) {
  const Array weight(weight_object, "weight", Array::kFloat, 2), fractions(fractions_object, "fractions", 'f', 1);
  const Array qweight(qweight_object, "qweight", 'B', 3, true), scales(scales_object, "scales", 'e', 3, true);
  fractions.expect_contiguous();
  if (bits != 4 && bits != 8) bad_value("bits has to be 4 or 8, not " + std::to_string(bits));
  if (group < kBlock || group % kBlock) bad_value("group has to be a multiple of 32, not " + std::to_string(group));
  const int64_t panels = (weight.shape(0) + kPanel - 1) / kPanel, groups = (weight.shape(1) + group - 1) / group;
  qweight.expect({panels, groups * group / kBlock, 64 * bits});
  qweight.expect_contiguous();
  scales.expect({panels, groups, kPanel});
  scales.expect_contiguous();
  ArrayPointer zeros;
  if (!zeros_object.is_none()) {
    zeros = std::make_unique<Array>(zeros_object, "zeros", 'B', 3, true);
    zeros->expect({panels, groups, kPanel});
    zeros->expect_contiguous();
  }
  Rounding job{};
  job.weight = weight.data<const void>();
  job.type = weight.type();
  job.rows = weight.shape(0);
  job.columns = weight.shape(1);
  job.stride = weight.row_stride();
  job.group = group;
  job.groups = groups;
  job.bits = bits;
  job.fractions = fractions.data<const float>();
  job.count = int(fractions.shape(0));
  job.qweight = qweight.data<uint8_t>();
  job.scales = scales.data<uint16_t>();
  job.zeros = zeros ? zeros->data<uint8_t>() : nullptr;
  nb::gil_scoped_release release;
  return round_weight(job);
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
  nb::class_<Tape>(m, "Tape")
      .def(nb::init<>())
      .def(
          "lend", [](Tape& tape, nb::handle floats) { tape.lend(floats, 'f', 1); }, nb::arg("floats"))
      .def(
          "lend_ids", [](Tape& tape, nb::handle ids) { tape.lend(ids, 'q', 1); }, nb::arg("ids"))
      .def("has", [](const Tape& tape, nb::handle x) { return tape.has(Array(x, "x", 'f', 2).data<const void>()); })
      .def_prop_ro("complete", &Tape::complete)
      .def(
          "record", [](Tape& tape, bool on) { Tape::recording() = on ? &tape : nullptr; }, nb::arg("on"))
      .def("run", &Tape::run, nb::arg("rows"));
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
  m.def("round", &py_round, nb::arg("weight"), nb::arg("group"), nb::arg("bits"), nb::arg("fractions"),
        nb::arg("qweight"), nb::arg("scales"), nb::arg("zeros").none());
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
