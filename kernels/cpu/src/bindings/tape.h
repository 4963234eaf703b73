// The operations of a forward pass, written down while they are computed for the first time: replayed without Python.
#pragma once

#include <algorithm>
#include <functional>
#include <initializer_list>
#include <utility>
#include <vector>

#include "array.h"
#include "rows.h"

namespace edgereason {

// A pass's inputs (tokens, cosines and sines) and what it computes lie in memory that is lent to the tape, at the same
// places each time. An operation on anything else leaves the tape incomplete: something besides these operations had a
// part in the pass, and would be missing from its replay.
class Tape {
 public:
  using Step = std::function<void(const Rows*)>;

  // The tape that this thread is recording; null mostly.
  static Tape*& recording() {
    thread_local Tape* tape = nullptr;
    return tape;
  }

  // `array` has to stay where it is as long as the tape is used.
  void lend(nb::handle object, char format, int ndim) {
    const Array array(object, "memory", format, ndim);
    int64_t size = format == 'q' ? 8 : 4;
    for (int i = 0; i < ndim; i++) size *= array.shape(i);
    const auto* begin = array.data<const char>();
    lent_.emplace_back(begin, begin + size);
  }

  bool has(const void* pointer) const {
    for (const auto& [begin, end] : lent_)
      if (begin <= pointer && pointer < end) return true;
    return false;
  }

  // Operands have to be the tape's, constants (a weight) are kept alive.
  void add(std::initializer_list<const Array*> operands, nb::handle constant, Step step) {
    for (const Array* operand : operands)
      if (operand) operands_.push_back(operand->data<const void>());
    if (constant.is_valid()) constants_.push_back(nb::borrow(constant));
    steps_.push_back(std::move(step));
  }

  bool complete() const {
    return std::all_of(operands_.begin(), operands_.end(), [this](const void* operand) { return has(operand); });
  }

  // The tape has to be complete.
  void run(const Rows& rows) const {
    nb::gil_scoped_release release;
    for (const Step& step : steps_) step(&rows);
  }

 private:
  std::vector<std::pair<const char*, const char*>> lent_;
  std::vector<nb::object> constants_;
  std::vector<const void*> operands_;
  std::vector<Step> steps_;
};

// Computes an operation without the interpreter's lock; a thread's tape takes it down.
template <class F>
void perform(std::initializer_list<const Array*> operands, nb::handle constant, const Rows* rows, F&& step) {
  if (Tape* tape = Tape::recording()) tape->add(operands, constant, step);
  nb::gil_scoped_release release;
  step(rows);
}

}  // namespace edgereason
