// Memory that a thread keeps between calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

namespace edgereason {

// Aligned for any vector load. What was reserved before is gone.
class Scratch {
 public:
  ~Scratch() { release(); }

  uint8_t* reserve(size_t bytes) {
    if (bytes > size_) {
      release();
      data_ = static_cast<uint8_t*>(::operator new(bytes, std::align_val_t(64)));
      size_ = bytes;
    }
    return data_;
  }

 private:
  void release() {
    if (data_) ::operator delete(data_, std::align_val_t(64));
    data_ = nullptr;
    size_ = 0;
  }

  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace edgereason
