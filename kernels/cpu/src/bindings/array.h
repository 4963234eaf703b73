// Arrays borrowed from Python through the buffer protocol, checked. Every message names the argument.
#pragma once

#include <nanobind/nanobind.h>

#include <algorithm>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "kernels.h"

namespace edgereason {

namespace nb = nanobind;

[[noreturn]] inline void bad_value(const std::string& message) {
  throw nb::value_error(message.c_str());
}
[[noreturn]] inline void bad_type(const std::string& message) {
  throw nb::type_error(message.c_str());
}

inline std::string shape_text(const int64_t* shape, int ndim) {
  std::string text = "[";
  for (int i = 0; i < ndim; i++) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

// A borrowed array. All dimensions but the first are contiguous.
class Array {
 public:
  // `format` is the element's letter in Python's struct module: B, H, i, e, f or q.
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

  // Instead of a letter: float32, float16, or the bits of bfloat16 as uint16.
  static constexpr char kFloat = '*';

  template <class T>
  T* data() const {
    return static_cast<T*>(view_.buf);
  }
  int64_t shape(int i) const { return int64_t(view_.shape[i]); }
  Type type() const { return *letter() == 'f' ? Type::f32 : *letter() == 'e' ? Type::f16 : Type::bf16; }
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
  // Arrays that come from ctypes or a file name the byte order too: little-endian, that of all machines with kernels.
  const char* letter() const {
    const char* f = view_.format ? view_.format : "B";
    return *f == '<' ? f + 1 : f;
  }
  int64_t row_size() const {
    int64_t size = 1;
    for (int i = 1; i < view_.ndim; i++) size *= shape(i);
    return size;
  }

  void check(char format, int ndim) const {
    // numpy names 64-bit integers "l" or "q", whichever is the platform's.
    const char* f = letter();
    const bool matches = f[1] == 0 && (f[0] == format || (format == 'q' && f[0] == 'l' && view_.itemsize == 8) ||
                                       (format == kFloat && (f[0] == 'f' || f[0] == 'e' || f[0] == 'H')));
    if (!matches) {
      const char* types[] = {
          "B",       "uint8", "H",       "uint16", "i",     "int32", "e",
          "float16", "f",     "float32", "q",      "int64", "*",     "float32, float16 or bfloat16 (as uint16)"};
      std::string wanted;
      for (int i = 0; i < 14; i += 2)
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

}  // namespace edgereason
