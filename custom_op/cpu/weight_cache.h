// Packed weights shared by all sessions of the process that hold the same constant, and freed with the
// last of them.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "cpu/run.h"

namespace ort_tconv {

// Packs `w` (`bytes` long, contiguous) in a layout, or returns what another node with equal weights and layout
// has packed.  Thread-safe.
std::shared_ptr<const PackedWeights> shared_weights(const std::vector<int64_t>& layout, const void* w, size_t bytes,
                                                    const std::function<std::shared_ptr<const PackedWeights>()>& pack);

// The same for a Prepared or QuantizedPrepared.
template <class P>
std::shared_ptr<const PackedWeights> shared_weights(const P& prepared, const void* w, size_t bytes) {
  return shared_weights(prepared.layout(), w, bytes, [&] { return prepared.pack(w); });
}

// Packed weights alive in the process: how many, and their bytes.
struct WeightCacheUse { size_t entries = 0, bytes = 0; };
WeightCacheUse weight_cache_use();

}  // namespace ort_tconv
