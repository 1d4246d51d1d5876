// Packed weights shared by all sessions of the process that hold the same constant, and freed with the
// last of them.
#pragma once

#include <memory>

#include "cpu/run.h"

namespace ort_tconv {

// Packs `w` (`bytes` long, contiguous) for `prepared`, or returns what another node with equal weights
// and layout has packed.  Thread-safe.
std::shared_ptr<const PackedWeights> shared_weights(const Prepared& prepared, const void* w, size_t bytes);

// Packed weights alive in the process: how many, and their bytes.
struct WeightCacheUse { size_t entries = 0, bytes = 0; };
WeightCacheUse weight_cache_use();

}  // namespace ort_tconv
