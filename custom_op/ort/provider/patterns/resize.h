// Resize and Upsample, as far as they repeat values.
#pragma once

#include "ort/provider/site.h"

namespace ort_tconv::provider {

// Output size over input size of each axis of a Resize or Upsample.  Throws Refusal if one is not known.
std::vector<double> enlargement(const Node& node, const Graph& graph);

// Factors, one an axis, by which `node` repeats values.  Throws Refusal if it does not.
Dims integer_repeats(const Node& node, const Graph& graph);

}  // namespace ort_tconv::provider
