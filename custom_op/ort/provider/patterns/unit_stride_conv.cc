// A convolution of stride 1 is a transposed one with the flipped kernel.  converters/unit_stride_conv.py derives it.
#include <algorithm>

#include "core/gain.h"
#include "core/status.h"
#include "ort/provider/patterns/convolution.h"
#include "ort/provider/patterns/patterns.h"

namespace ort_tconv::provider {
namespace {

Site read(const Node& node, const Value& x, const Graph& graph, const Options& options) {
  const Convolution conv = read_convolution(node, graph);
  if (conv.dtype != DType::kFloat32) refuse("it is not float32");
  const Dims kernel(conv.shape.begin() + 2, conv.shape.end());
  if (*std::max_element(kernel.begin(), kernel.end()) == 1) refuse("its kernel has one tap");
  if (conv.group > 1 && conv.group == conv.channels()) refuse("it is depthwise");
  const Pads pads = transposed_pads(conv);
  Equivalent form{{conv.channels(), conv.shape[0] / conv.group},
                  Dims(kernel.size(), 1),
                  pads.begins,
                  pads.ends,
                  conv.group,
                  conv.dilations,
                  {}};
  form.w_shape.insert(form.w_shape.end(), kernel.begin(), kernel.end());
  check_gain(conv, form, Dims(kernel.size(), 1), {}, x, {&node}, graph, options, kSureShare);
  Site site = make_site(conv, form, x, kUnitStrideConv, graph);
  site.nodes = {&node};
  site.output = node.outputs[0]->name;
  site.reform = flip(conv);
  if (const Value* b = node.input(2)) site.b = b->name;
  return site;
}

}  // namespace

// Where nothing is sure to be gained a Conv is no candidate, and no report mentions it.
std::optional<Site> unit_stride_conv(const Node& node, const Graph& graph, const Options& options) {
  const Value* const x = node.own("Conv") ? node.input(0) : nullptr;
  if (!x) return std::nullopt;
  const Dims dims = graph.dims(*x);
  if (dims.size() < 3 || *std::min_element(dims.begin() + 2, dims.end()) < 1) return std::nullopt;
  try {
    return read(node, *x, graph, options);
  } catch (const Refusal&) {
  } catch (const Error&) {  // of an attribute, or of sizes that no computer holds
  }
  return std::nullopt;
}

}  // namespace ort_tconv::provider
