// ConvTranspose is the operator itself, attribute by attribute.
#include "core/status.h"
#include "ort/provider/patterns/patterns.h"

namespace ort_tconv::provider {
namespace {

Attributes read_attributes(const Node& node, const Graph& graph) {
  Attributes a;
  a.kernel_shape = graph.integers(node, "kernel_shape");
  a.strides = graph.integers(node, "strides");
  a.pads = graph.integers(node, "pads");
  a.dilations = graph.integers(node, "dilations");
  a.output_padding = graph.integers(node, "output_padding");
  a.output_shape = graph.integers(node, "output_shape");
  a.auto_pad = graph.text(node, "auto_pad", "NOTSET");
  a.group = graph.integer(node, "group", 1);
  return a;
}

}  // namespace

std::optional<Site> conv_transpose(const Node& node, const Graph& graph, const Options&) {
  if (!node.own("ConvTranspose")) return std::nullopt;
  if (node.since != 1 && node.since != 11 && node.since != 22)
    refuse("its version, ", node.since, ", is newer than this provider knows (22)");
  if (node.inputs.size() < 2 || node.inputs.size() > 3 || !node.inputs[0] || !node.inputs[1] ||
      node.outputs.size() != 1)
    refuse("it does not have ConvTranspose's inputs X, W and optionally B, and one output");
  const Value &x = *node.inputs[0], &w = *node.inputs[1];
  const auto dtype = float_type(graph.type(x));
  if (!dtype) refuse("its input X has no float type");
  for (const Value* value : {&x, &w}) {
    const auto sizes = graph.sizes(*value);
    if (sizes && (sizes->size() < 3 || sizes->size() > 2 + kMaxSpatial))
      refuse("input '", value->name, "' has rank ", sizes->size(), ": 3 to ", 2 + kMaxSpatial, " are supported");
  }
  Site site;
  site.pattern = "conv_transpose";
  site.label = node.label();
  site.nodes = {&node};
  site.output = node.outputs[0]->name;
  site.dtype = *dtype;
  site.attributes = read_attributes(node, graph);
  site.x = x.name;
  site.x_declared = graph.dims(x);
  site.w = w.name;
  site.constant_w = graph.is_constant(&w);
  if (site.constant_w) site.w_shape = graph.dims(w);
  if (const Value* b = node.input(2)) site.b = b->name;
  return site;
}

}  // namespace ort_tconv::provider
