// Sub-pixel convolution, a Conv whose channels are shuffled into pixels, is a transposed convolution whose stride
// is the side of the block.  converters/subpixel_conv.py derives it.
#include <algorithm>
#include <cmath>
#include <set>

#include "core/status.h"
#include "ort/provider/patterns/activation.h"
#include "ort/provider/patterns/affine.h"
#include "ort/provider/patterns/convolution.h"
#include "ort/provider/patterns/patterns.h"
#include "ort/provider/patterns/shuffle.h"
#include "ort/provider/weights.h"

namespace ort_tconv::provider {
namespace {

constexpr size_t kMostNodes = 8;  // between a Conv and its pixels

// What follows a Conv: constants, an activation and the shuffle, whose last node gives the result.
struct Trace {
  std::vector<const Node*> nodes;
  ChannelIndex index;
  Affine affine;
  std::optional<Activation> activation;
};

std::optional<Trace> trace(const Node& node, const Graph& graph) {
  const Value* value = node.outputs.empty() ? nullptr : node.outputs[0];
  if (!value) return std::nullopt;
  const Dims dims = graph.dims(*value);
  if (dims.size() < 3 || dims[1] < 0) return std::nullopt;
  Trace result;
  while (result.nodes.size() < kMostNodes) {
    const Node* const next = value->only_reader();
    if (!next || next->outputs.empty() || !next->outputs[0]) break;
    std::optional<Affine> found;
    try {
      found = read_affine(*next, *value, dims[1], dims.size(), graph);
    } catch (const Refusal&) {
    }
    if (!found || graph.dims(*next->outputs[0]).size() != dims.size()) break;
    const auto channels = static_cast<size_t>(dims[1]);
    Affine both{std::vector<double>(channels), std::vector<double>(channels)};
    for (size_t m = 0; m < channels; ++m) {
      both.scale[m] = at(found->scale, m) * at(result.affine.scale, m);
      both.shift[m] = at(found->scale, m) * at(result.affine.shift, m) + at(found->shift, m);
    }
    result.affine = std::move(both);
    result.nodes.push_back(next);
    value = next->outputs[0];
  }
  const auto dtype = float_type(graph.type(*value));
  if (!dtype) return std::nullopt;
  if (value->readers.size() > 1) {
    if (auto found = written_out_activation(*value, dims.size(), *dtype, graph)) {
      result.activation = found->activation;
      result.nodes.insert(result.nodes.end(), found->nodes.begin(), found->nodes.end());
    }
  } else if (const Node* next = value->only_reader(); next && next->input(0) == value) {
    try {
      result.activation = single_activation(*next, -1, dims.size(), graph);
    } catch (const Refusal&) {
    }
    if (result.activation) result.nodes.push_back(next);
  }
  if (result.activation) value = result.nodes.back()->outputs[0];
  auto shuffled = find_shuffle(*value, dims, graph);
  if (!shuffled) return std::nullopt;
  result.nodes.insert(result.nodes.end(), shuffled->nodes.begin(), shuffled->nodes.end());
  result.index = std::move(shuffled->index);
  return result;
}

// A tap that every output finds within the image: p <= t d <= (k - 1) d - p' on each axis.
Dims tap_inside(const Convolution& conv) {
  if (conv.group != 1) refuse("its biases differ among the channels of a pixel, and it has groups");
  const Dims reach = conv.reach();
  Dims taps;
  for (size_t i = 0; i < reach.size(); ++i) {
    const int64_t d = conv.dilations[i], tap = (conv.begins[i] + d - 1) / d;
    if (tap * d > reach[i] - conv.ends[i])
      refuse(
          "its biases differ among the channels of a pixel, and with these pads no tap meets the image from every "
          "output");
    taps.push_back(tap);
  }
  return taps;
}

// Weights of one more input channel, all ones, that add the biases at tap `at`.
Array append(const Array& w, const std::vector<double>& biases, const Dims& at) {
  Array result = w;
  ++result.shape[1];
  int64_t taps = 1, place = 0;
  for (size_t i = 0; i < at.size(); ++i) {
    taps *= w.shape[2 + i];
    place = place * w.shape[2 + i] + at[i];
  }
  const int64_t old = w.shape[1] * taps;
  result.values.assign(static_cast<size_t>(w.shape[0] * (old + taps)), 0.0);
  for (int64_t m = 0; m < w.shape[0]; ++m) {
    std::copy_n(w.values.begin() + m * old, old, result.values.begin() + m * (old + taps));
    result.values[m * (old + taps) + old + place] = biases[m];
  }
  return result;
}

// h at r + s d (k - 1 - t) is w of channel index[m, r] at tap t.
Array interleave(const Array& w, const Convolution& conv, const ChannelIndex& index) {
  const size_t axes = conv.dilations.size();
  const Dims factors(index.shape.begin() + 1, index.shape.end()), reach = conv.reach();
  Array result{{index.shape[0], w.shape[1]}, {}};
  for (size_t i = 0; i < axes; ++i) result.shape.push_back((reach[i] + 1) * factors[i]);
  result.values.assign(static_cast<size_t>(element_count(result.shape, "size of the weights")), 0.0);
  const Dims kernel(w.shape.begin() + 2, w.shape.end());
  const int64_t places = element_count(factors, "block"), taps = element_count(kernel, "kernel size");
  for (int64_t m = 0; m < index.shape[0]; ++m)
    for (int64_t r = 0; r < places; ++r)
      for (int64_t c = 0; c < w.shape[1]; ++c)
        for (int64_t t = 0; t < taps; ++t) {
          int64_t target = m * w.shape[1] + c, left_r = r, left_t = t;
          Dims at(axes);
          for (size_t i = axes; i-- > 0;) {
            const int64_t ri = left_r % factors[i], ti = left_t % kernel[i];
            left_r /= factors[i];
            left_t /= kernel[i];
            at[i] = ri + factors[i] * conv.dilations[i] * (kernel[i] - 1 - ti);
          }
          for (size_t i = 0; i < axes; ++i) target = target * result.shape[2 + i] + at[i];
          const int64_t channel = index.channels[m * places + r];
          result.values[target] = w.values[(channel * w.shape[1] + c) * taps + t];
        }
  return swap_channels(result, conv.group);
}

}  // namespace

std::optional<Site> subpixel_conv(const Node& node, const Graph& graph, const Options& options) {
  if (!node.own("Conv")) return std::nullopt;
  auto found = trace(node, graph);
  if (!found) return std::nullopt;
  Convolution conv = read_convolution(node, graph);
  conv.scale = found->affine.scale;
  check_scale(
      conv.scale,
      [&] {
        const auto w = to_double(*graph.constant(node.inputs[1]));
        std::vector<double> largest(static_cast<size_t>(conv.shape[0]), 0.0);
        const size_t row = w.size() / largest.size();
        for (size_t i = 0; i < w.size(); ++i) largest[i / row] = std::max(largest[i / row], std::fabs(w[i]));
        return largest;
      },
      conv.dtype);
  std::vector<const Node*> nodes{&node};
  nodes.insert(nodes.end(), found->nodes.begin(), found->nodes.end());
  const std::set<const Node*> chain(nodes.begin(), nodes.end());
  for (size_t i = 0; i + 1 < nodes.size(); ++i) {
    const Value& inner = *nodes[i]->outputs[0];
    if (inner.graph_output) refuse("'", inner.name, "' is an output of the graph");
    for (const Node* reader : inner.readers)
      if (!chain.count(reader)) refuse("'", inner.name, "' has other readers");
  }
  const ChannelIndex& index = found->index;
  const auto axes = static_cast<size_t>(conv.axes());
  if (static_cast<int64_t>(index.channels.size()) != conv.shape[0] || index.shape.size() != axes + 1)
    refuse("the shuffle deals out ", index.channels.size(), " of ", conv.shape[0], " channels");
  const int64_t m = index.shape[0], group = conv.group;
  const auto places = static_cast<int64_t>(index.channels.size()) / m;
  for (int64_t i = 0; i < conv.shape[0]; ++i)
    if (m % group || index.channels[i] / (conv.shape[0] / group) != i / (conv.shape[0] / group))
      refuse("its ", group, " groups do not become groups of the output's channels");
  const Pads pads = transposed_pads(conv);

  // One bias for each of the Conv's channels.
  std::optional<std::vector<double>> biases;
  const auto& shift = found->affine.shift;
  const bool shifted = std::any_of(shift.begin(), shift.end(), [](double v) { return v != 0; });
  if (node.input(2) || shifted) {
    biases.emplace(static_cast<size_t>(conv.shape[0]), 0.0);
    if (const Value* b = node.input(2)) {
      const auto tensor = graph.constant(b);
      if (!tensor) refuse("its input B is not a constant");
      biases = to_double(*tensor);
      if (tensor->shape != Dims{conv.shape[0]}) refuse("its input B has shape ", tensor->shape);
    }
    for (size_t i = 0; i < biases->size(); ++i) (*biases)[i] = at(found->affine.scale, i) * (*biases)[i] + at(shift, i);
    check_range(*biases, conv.dtype, "biases");
  }
  bool uniform = true;
  for (int64_t i = 0; biases && i < conv.shape[0]; ++i)
    uniform = uniform && (*biases)[index.channels[i]] == (*biases)[index.channels[i / places * places]];
  const Dims tap = uniform ? Dims{} : tap_inside(conv);
  const int64_t extra = uniform ? 0 : 1;

  const Dims factors(index.shape.begin() + 1, index.shape.end()), reach = conv.reach();
  Equivalent form{{conv.channels() + extra, m / group}, factors, pads.begins, pads.ends, group};
  for (size_t i = 0; i < axes; ++i) {
    form.w_shape.push_back(factors[i] * (reach[i] + 1));
    form.begins[i] *= factors[i];
    form.ends[i] *= factors[i];
  }
  const auto kernel = [conv, index, tap, uniform, biases](std::vector<double> w) {
    Array weights{conv.shape, conv.weights(std::move(w))};
    if (!uniform) weights = append(weights, *biases, tap);
    return interleave(weights, conv, index).values;
  };
  if (conv.dtype == DType::kFloat16)
    check_range(kernel(to_double(*graph.constant(node.inputs[1]))), conv.dtype, "weights");
  const Value& x = *node.inputs[0];
  Moved moved;
  moved.shuffled = 2 * conv.shape[0];
  moved.added = 2 * conv.channels() * extra;
  check_gain(conv, form, Dims(axes, 1), moved, x, nodes, graph, options);

  Site site = make_site(conv, form, x, "subpixel_conv", graph);
  site.nodes = nodes;
  site.output = nodes.back()->outputs[0]->name;
  site.reform = kernel;
  if (!uniform) {
    site.margin.begins = site.margin.ends = Dims(axes + 2, 0);
    site.margin.ends[1] = 1;
  } else if (biases) {
    site.bias.emplace();
    for (int64_t i = 0; i < m; ++i) site.bias->push_back((*biases)[index.channels[i * places]]);
  }
  if (found->activation) set_activation(site, *found->activation);
  return site;
}

}  // namespace ort_tconv::provider
