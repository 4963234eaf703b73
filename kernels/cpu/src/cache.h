// The keys and values of one sequence in all layers, in pages of 64 tokens.
//
// Pages make forks cheap: they share what they have in common, and the page that both would go on writing is copied
// (PagedAttention, arXiv 2309.06180). A cache grows without moving what it holds.
#pragma once

#include <memory>
#include <vector>

#include "kernels.h"

namespace edgereason {

struct CacheShape {
  int64_t layers, kv_heads, dim;
  Type type;  // f32, f16 or s8

  int64_t element_bytes() const { return type == Type::f32 ? 4 : type == Type::f16 ? 2 : 1; }
  // Of one KV head in one layer, as `Attention` describes it, rounded up to a cache line.
  int64_t head_bytes() const {
    const int64_t scales = type == Type::s8 ? 2 * int64_t(sizeof(float)) : 0;
    return (kPage * (2 * dim * element_bytes() + scales) + 63) / 64 * 64;
  }
  int64_t page_bytes() const { return layers * kv_heads * head_bytes(); }
};

using Page = std::shared_ptr<uint8_t>;

// A copy is a fork. Not for use by two threads at once; forks may be used by different threads.
class Cache {
 public:
  explicit Cache(CacheShape shape) : shape_(shape) {}

  const CacheShape& shape() const { return shape_; }
  int64_t length() const { return length_; }
  const std::vector<Page>& pages() const { return pages_; }

  // Makes room for `count` more tokens, in pages that no fork shares.
  void reserve(int64_t count);
  // Takes `count` tokens into the sequence, which were written behind its end.
  void append(int64_t count) { length_ += count; }
  // Forgets the tokens from `length` on.
  void truncate(int64_t length);

  // The tokens in an order that does not depend on pages. For each layer and KV head: keys [length, dim], values
  // [length, dim]; with s8 the keys' scales f32 [length] and the values'.
  int64_t state_bytes(int64_t length) const;
  void save(uint8_t* out) const;
  void load(const uint8_t* state, int64_t length);  // replaces what the cache holds

 private:
  CacheShape shape_;
  std::vector<Page> pages_;
  int64_t length_ = 0;
};

}  // namespace edgereason
