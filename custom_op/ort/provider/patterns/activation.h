// Activations: single operators, and the sub-graphs by which exporters write them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "ort/provider/site.h"

namespace ort_tconv::provider {

// Name and parameters as the operator has them.
struct Activation {
  std::string name;
  std::vector<double> params;
};

// The activation that `node` is; nothing if it is none.  Throws Refusal if it cannot be fused.
std::optional<Activation> single_activation(const Node& node, int64_t channels, size_t rank, const Graph& graph);

struct WrittenOut {
  Activation activation;
  std::vector<const Node*> nodes;  // the last one gives the result
};

// An activation of `value` (of so many axes) that is written out by several nodes.  Nothing but these reads
// `value` or what they compute on the way.
std::optional<WrittenOut> written_out_activation(const Value& value, size_t rank, DType dtype, const Graph& graph);

// Bounds of a Clip.  Throws Refusal if they are not constants.
std::vector<double> clip_bounds(const Node& node, const Graph& graph);

// Throws Refusal if the operator, whose attributes are float32, cannot hold the parameters.
void set_activation(Site& site, const Activation& activation);

}  // namespace ort_tconv::provider
