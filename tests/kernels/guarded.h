// Arrays whose end is the end of readable memory: a kernel that reads or writes one element too many ends the program,
// on any machine and under an emulator too.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <new>
#include <utility>

namespace edgereason {

template <class T>
class Guarded {
 public:
  explicit Guarded(int64_t size, T value = T()) : size_(size) {
    const auto page = size_t(sysconf(_SC_PAGESIZE)), bytes = sizeof(T) * size_t(size);
    mapped_ = (bytes + page - 1) / page * page + page;
    void* memory = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<uint8_t*>(memory);
    if (mprotect(base_ + mapped_ - page, page, PROT_NONE) != 0) throw std::bad_alloc();
    data_ = reinterpret_cast<T*>(base_ + mapped_ - page - bytes);
    std::fill(begin(), end(), value);
  }
  Guarded(Guarded&& other) noexcept { *this = std::move(other); }
  Guarded& operator=(Guarded&& other) noexcept {
    std::swap(base_, other.base_);
    std::swap(mapped_, other.mapped_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Guarded() {
    if (base_) munmap(base_, mapped_);
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  T* begin() { return data_; }
  T* end() { return data_ + size_; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + size_; }
  int64_t size() const { return size_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }

 private:
  uint8_t* base_ = nullptr;
  size_t mapped_ = 0;
  T* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace edgereason
