#include "ort/provider/patterns/activation.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ort/provider/patterns/affine.h"
#include "ort/provider/weights.h"

namespace ort_tconv::provider {

std::vector<double> clip_bounds(const Node& node, const Graph& graph) {
  std::vector<double> bounds;
  const double infinity = std::numeric_limits<double>::infinity();
  const std::pair<const char*, double> limits[] = {{"min", -infinity}, {"max", infinity}};
  for (size_t i = 0; i < 2; ++i) {
    const auto [name, none] = limits[i];
    double bound = none;
    if (const Value* value = node.input(i + 1)) {
      const auto tensor = graph.constant(value);
      if (!tensor || element_count(tensor->shape, "size") != 1) refuse("its ", name, " is not a constant");
      bound = to_double(*tensor)[0];
    } else if (node.since < 11) {
      bound = graph.number(node, name, static_cast<float>(none));
    }
    if (std::isnan(bound)) refuse("its ", name, " is not a number");
    bounds.push_back(bound);
  }
  bounds[0] = std::min(bounds[0], bounds[1]);  // of bounds out of order the upper one wins, whatever the value
  return bounds;
}

std::optional<Activation> single_activation(const Node& node, int64_t channels, size_t rank, const Graph& graph) {
  const auto number = [&](const char* name, float missing) -> double { return graph.number(node, name, missing); };
  const std::string& op = node.op;
  if (node.domain == "com.microsoft") {
    if (op == "Gelu") return Activation{"Gelu", {}};
    if (op == "FastGelu") {
      if (node.input(1)) refuse("it adds a bias");
      return Activation{"GeluTanh", {}};
    }
    if (op != "QuickGelu") return std::nullopt;
    if (number("alpha", 1.702f) != 1)
      refuse("its attribute 'alpha' = ", number("alpha", 1.702f), ": only x * sigmoid(x) can be fused");
    return Activation{"Silu", {}};
  }
  if (!node.domain.empty()) return std::nullopt;
  for (const char* plain : {"HardSwish", "Relu", "Sigmoid", "Softplus", "Tanh"})
    if (op == plain) return Activation{op, {}};
  if (op == "Clip") return Activation{op, clip_bounds(node, graph)};
  if (op == "Elu") return Activation{op, {number("alpha", 1.f)}};
  if (op == "LeakyRelu") return Activation{op, {number("alpha", 0.01f)}};
  if (op == "HardSigmoid") return Activation{op, {number("alpha", 0.2f), number("beta", 0.5f)}};
  if (op == "Gelu") {
    const std::string form = graph.text(node, "approximate", "none");
    if (form != "none" && form != "tanh") refuse("its attribute 'approximate' = '", form, "' is not none or tanh");
    return Activation{form == "none" ? "Gelu" : "GeluTanh", {}};
  }
  if (op == "Swish") {
    if (number("alpha", 1.f) != 1)
      refuse("its attribute 'alpha' = ", number("alpha", 1.f), ": only x * sigmoid(x) can be fused");
    return Activation{"Silu", {}};
  }
  if (op == "PRelu") {
    const auto slopes = graph.constant(node.input(1));
    if (!slopes) refuse("its slopes are not a constant");
    auto values = per_channel(*slopes, channels, rank);
    if (!values) refuse("its slopes have shape ", slopes->shape, ": not one for each channel");
    return Activation{op, std::move(*values)};
  }
  return std::nullopt;
}

void set_activation(Site& site, const Activation& activation) {
  site.attributes.activation = activation.name;
  site.attributes.activation_params.clear();
  for (double param : activation.params) {
    const auto held = static_cast<float>(param);
    if (site.dtype == DType::kFloat64 && held != param)
      refuse("its parameters are not float32 numbers, as activation_params holds them");
    site.attributes.activation_params.push_back(held);
  }
}

}  // namespace ort_tconv::provider
