// The patterns that the provider looks for, one file each.  Each says what a node begins: a site, or nothing;
// it throws Refusal if it looks like one and is left alone.
#pragma once

#include <optional>

#include "ort/provider/site.h"

namespace ort_tconv::provider {

// ConvTranspose(X, W, B?).
std::optional<Site> conv_transpose(const Node& node, const Graph& graph);

}  // namespace ort_tconv::provider
