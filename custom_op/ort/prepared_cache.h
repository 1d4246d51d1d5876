// What a node remembers between runs: plans by the shapes they are for, and packed constant weights.
#pragma once

#include <algorithm>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "core/status.h"
#include "cpu/pages.h"
#include "cpu/weight_cache.h"
#include "ort/support.h"

namespace ort_tconv {

// P is Prepared or QuantizedPrepared.  Entries are immutable; any number of threads may ask.
template <class P>
class PreparedCache {
 public:
  // The one for these shapes, made by make() if it is not remembered.
  template <class Make>
  std::shared_ptr<const P> prepared(const InputShapes& shapes, Make make) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      const auto found =
          std::find_if(prepared_.begin(), prepared_.end(), [&](const auto& e) { return same(e->first, shapes); });
      if (found != prepared_.end()) {
        std::rotate(found, found + 1, prepared_.end());
        return view(prepared_.back());
      }
    }
    const auto entry = std::make_shared<const Entry>(shapes, make());
    std::lock_guard<std::mutex> lock(mutex_);
    if (prepared_.size() >= kShapes) prepared_.erase(prepared_.begin());
    prepared_.push_back(entry);
    return view(entry);
  }

  // The node's constant weights in the layout of `prepared`.  `w`, of elements of so many bytes, is read only to
  // pack it in a layout it is not packed in yet; it may be null where that cannot be.
  std::shared_ptr<const PackedWeights> weights(const P& prepared, const void* w, int element_bytes) {
    std::lock_guard<std::mutex> lock(mutex_);  // the first run in a layout packs, others wait for it
    for (const auto& packed : packed_)
      if (packed->layout == prepared.layout()) return packed;
    const Problem& p = prepared.problem();
    const int64_t count = p.channels * p.group_out() * element_count(p.kernel, "kernel size");
    require(w || count == 0, "input X has spatial shape ", p.in, " and batch ", p.batch,
            ", which is not the shape that the model declares");
    const size_t bytes = static_cast<size_t>(count * element_bytes);
    packed_.push_back(shared_weights(prepared, w, bytes));
    let_go(w, bytes);  // what reads them again is rare: another layout, values that are not finite
    return packed_.back();
  }

 private:
  static constexpr size_t kShapes = 8;  // shapes a node remembers
  using Entry = std::pair<InputShapes, P>;

  static std::shared_ptr<const P> view(const std::shared_ptr<const Entry>& e) { return {e, &e->second}; }

  std::mutex mutex_;
  std::vector<std::shared_ptr<const Entry>> prepared_;  // most recently used last
  std::vector<std::shared_ptr<const PackedWeights>> packed_;
};

}  // namespace ort_tconv
