#include "cache.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <new>

namespace edgereason {
namespace {

constexpr auto kAlignment = std::align_val_t(64);

Page new_page(int64_t bytes) {
  return Page(static_cast<uint8_t*>(::operator new(size_t(bytes), kAlignment)),
              [](uint8_t* data) { ::operator delete(data, kAlignment); });
}

int64_t pages_for(int64_t length) {
  return (length + kPage - 1) / kPage;
}

// Calls f(stored, state, bytes) for everything that belongs to one KV head in one page of `count` tokens, where `state`
// is that page's part of each array of the head's state.
template <class F>
void visit_head(const CacheShape& shape, uint8_t* head, uint8_t* state, int64_t first, int64_t count, int64_t length,
                F&& f) {
  const int64_t element = shape.element_bytes(), row = shape.dim * element;
  uint8_t *keys = state + first * row, *values = keys + length * row;
  for (int64_t t = 0; t < count; t++)
    for (int64_t d = 0; d < shape.dim; d++)
      f(head + (t / kKeys * kKeys * shape.dim + d * kKeys + t % kKeys) * element, keys + t * row + d * element,
        element);
  f(head + kPage * row, values, count * row);
  if (shape.type != Type::s8) return;
  uint8_t* scales = state + 2 * length * row + first * int64_t(sizeof(float));
  for (int i = 0; i < 2; i++)
    f(head + 2 * kPage * row + i * kPage * int64_t(sizeof(float)), scales + i * length * int64_t(sizeof(float)),
      count * int64_t(sizeof(float)));
}

template <class F>
void visit(const Cache& cache, uint8_t* state, int64_t length, F&& f) {
  assert(0 <= length && length <= int64_t(cache.pages().size()) * kPage);
  const CacheShape& shape = cache.shape();
  const int64_t heads = shape.layers * shape.kv_heads, head_state = cache.state_bytes(length) / heads;
  for (int64_t head = 0; head < heads; head++)
    for (int64_t first = 0; first < length; first += kPage)
      visit_head(shape, cache.pages()[size_t(first / kPage)].get() + head * shape.head_bytes(),
                 state + head * head_state, first, std::min(length - first, int64_t(kPage)), length, f);
}

}  // namespace

void Cache::reserve(int64_t count) {
  const auto first = size_t(length_ / kPage), needed = size_t(pages_for(length_ + count));
  for (size_t i = first; i < std::min(needed, pages_.size()); i++) {
    if (pages_[i].use_count() == 1) continue;
    Page own = new_page(shape_.page_bytes());
    if (i == first && length_ % kPage) std::memcpy(own.get(), pages_[i].get(), size_t(shape_.page_bytes()));
    pages_[i] = std::move(own);
  }
  while (pages_.size() < needed) pages_.push_back(new_page(shape_.page_bytes()));
}

void Cache::truncate(int64_t length) {
  length_ = length;
  pages_.resize(size_t(pages_for(length)));
}

int64_t Cache::state_bytes(int64_t length) const {
  const int64_t scales = shape_.type == Type::s8 ? int64_t(sizeof(float)) : 0;
  return shape_.layers * shape_.kv_heads * length * 2 * (shape_.dim * shape_.element_bytes() + scales);
}

void Cache::save(uint8_t* out) const {
  visit(*this, out, length_,
        [](uint8_t* stored, uint8_t* state, int64_t bytes) { std::memcpy(state, stored, size_t(bytes)); });
}

void Cache::load(const uint8_t* state, int64_t length) {
  truncate(0);
  reserve(length);
  visit(*this, const_cast<uint8_t*>(state), length,
        [](uint8_t* stored, uint8_t* from, int64_t bytes) { std::memcpy(stored, from, size_t(bytes)); });
  length_ = length;
}

}  // namespace edgereason
