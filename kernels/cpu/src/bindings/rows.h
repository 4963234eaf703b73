// The rows of one forward pass: whose tokens they are, and which adapters they have.
#pragma once

#include <cassert>
#include <tuple>
#include <vector>

#include "array.h"
#include "cache.h"
#include "weight.h"

namespace edgereason {

using SegmentArguments = std::tuple<nb::object, int64_t, int64_t>;

// Segments (cache, rows, adapter; negative for none) in order. They keep the pages that they write to alive, whatever
// happens to their caches meanwhile.
class Rows {
 public:
  explicit Rows(const std::vector<SegmentArguments>& segments) {
    for (const auto& [object, count, adapter] : segments) {
      auto& cache = nb::cast<Cache&>(object);
      if (count < 0) bad_value("a segment has " + std::to_string(count) + " rows");
      for (const Segment& other : segments_)
        if (other.cache == &cache) bad_value("a cache is in two segments");
      cache.reserve(count);
      segments_.push_back({object, &cache, cache.pages(), {}, cache.length(), count});
      for (const Page& page : segments_.back().pages) segments_.back().pointers.push_back(page.get());
      if (adapter >= 0 && count > 0) add_run(adapter, count);
      total_ += count;
    }
  }
  Rows(const Rows&) = delete;

  int64_t total() const { return total_; }

  AdapterRuns runs(const Weight& weight) const {
    AdapterRuns found;
    for (const Run& run : runs_)
      if (const Adapter* adapter = weight.adapter(run.adapter)) found.push_back({adapter, run.begin, run.end});
    return found;
  }

  // One job for each segment, with the fields that are its own.
  std::vector<Attention> attention(const Attention& common, int64_t layer) const {
    std::vector<Attention> jobs;
    int64_t first = 0;
    for (const Segment& segment : segments_) {
      const CacheShape& shape = segment.cache->shape();
      if (layer < 0 || layer >= shape.layers)
        bad_value("layer is " + std::to_string(layer) + ", a cache has " + std::to_string(shape.layers));
      if (shape.kv_heads != common.kv_heads || shape.dim != common.dim)
        bad_value("k has " + std::to_string(common.kv_heads) + " heads of " + std::to_string(common.dim) +
                  ", a cache " + std::to_string(shape.kv_heads) + " of " + std::to_string(shape.dim));
      Attention job = common;
      job.q += first * job.q_stride;
      job.y += first * job.heads * job.dim;
      job.pages = segment.pointers.data();
      job.head_bytes = shape.head_bytes();
      job.layer_offset = layer * shape.kv_heads * job.head_bytes;
      job.type = shape.type;
      job.rows = segment.count;
      job.position = segment.position;
      assert(job.position + job.rows <= int64_t(segment.pointers.size()) * kPage);
      jobs.push_back(job);
      first += segment.count;
    }
    return jobs;
  }

  // Takes the rows' tokens into their caches, once all layers have written them.
  void commit() {
    for (const Segment& segment : segments_)
      if (segment.cache->length() != segment.position || segment.cache->pages() != segment.pages)
        bad_value("a cache changed during the forward pass");
    for (Segment& segment : segments_) segment.cache->append(segment.count);
  }

 private:
  struct Segment {
    nb::object owner;
    Cache* cache;
    std::vector<Page> pages;
    std::vector<uint8_t*> pointers;
    int64_t position, count;
  };
  struct Run {
    int64_t adapter, begin, end;
  };

  void add_run(int64_t adapter, int64_t count) {
    if (!runs_.empty() && runs_.back().adapter == adapter && runs_.back().end == total_)
      runs_.back().end += count;
    else
      runs_.push_back({adapter, total_, total_ + count});
  }

  std::vector<Segment> segments_;
  std::vector<Run> runs_;
  int64_t total_ = 0;
};

}  // namespace edgereason
