// Resize and Upsample, as far as they repeat values.
#pragma once

#include "ort/provider/site.h"

namespace ort_tconv::provider {

// Factors, one an axis, by which `node` repeats values.  Throws Refusal if it does not.
Dims integer_repeats(const Node& node, const Graph& graph);

}  // namespace ort_tconv::provider
