// Weights or a bias that a DequantizeLinear computes from constants: computed once, in place of in every run.
#include "ort/provider/patterns/dequantized.h"
#include "ort/provider/patterns/patterns.h"
#include "ort/provider/weights.h"

namespace ort_tconv::provider {

std::optional<Site> quantized_weights(const Node& node, const Graph& graph, const Options& options) {
  if (!node.own("ConvTranspose")) return std::nullopt;
  const auto w = read_dequantized(node.input(1), "W", graph);
  if (!w) return std::nullopt;
  const auto b = read_dequantized(node.input(2), "B", graph);
  auto site = conv_transpose(node, graph, options);
  site->pattern = "quantized_weights";
  site->nodes.clear();
  // Of a result that others read as well the nodes stay, and so do their inputs.
  const auto constant = [&](const std::optional<Dequantized>& d) {
    auto found = d && d->node->outputs[0]->only_reader() ? d->constant(graph) : std::nullopt;
    if (found) site->nodes.push_back(d->node);
    return found;
  };
  if (const auto found = constant(w)) {
    site->constant_w = true;
    site->w = w->values->name;
    site->w_shape = found->shape;
    site->reform = *found;
    site->w_scales = [found = *found, values = w->values, group = site->attributes.group, &graph] {
      return found.channel_scales(to_double(*graph.constant(values)), group);
    };
  }
  if (const auto found = constant(b)) {
    site->bias = (*found)(to_double(*graph.constant(b->values)));
    site->b.clear();
  }
  if (site->nodes.empty()) return std::nullopt;
  site->nodes.push_back(&node);
  return site;
}

}  // namespace ort_tconv::provider
