#include "ort/provider/patterns/convolution.h"

#include <algorithm>

#include "core/gain.h"
#include "core/status.h"
#include "cpu/arch.h"
#include "cpu/run.h"
#include "ort/provider/blocked_layout.h"
#include "ort/provider/patterns/dequantized.h"

namespace ort_tconv::provider {

Dims Convolution::reach() const {
  Dims result;
  for (size_t i = 0; i < dilations.size(); ++i) result.push_back((shape[2 + i] - 1) * dilations[i]);
  return result;
}

std::vector<double> Convolution::weights(std::vector<double> w) const {
  const size_t row = w.size() / static_cast<size_t>(shape[0]);
  for (size_t i = 0; i < w.size(); ++i) w[i] *= scale[scale.size() == 1 ? 0 : i / row];
  return w;
}

Convolution read_convolution(const Node& node, const Graph& graph) {
  if (node.since != 1 && node.since != 11 && node.since != 22)
    refuse("its version, ", node.since, ", is newer than this provider knows (22)");
  if (node.inputs.size() < 2 || node.inputs.size() > 3 || !node.inputs[0] || !node.inputs[1] ||
      node.outputs.size() != 1)
    refuse("it does not have Conv's inputs X, W and optionally B, and one output");
  if (is_linear(node.inputs[1]->producer, "DequantizeLinear"))
    refuse("its weights are quantised, and of such only a ConvTranspose is rewritten");
  const auto tensor = graph.constant(node.inputs[1]);
  if (!tensor) refuse("its input W is not a constant");
  Convolution conv;
  conv.node = &node;
  conv.shape = tensor->shape;
  const auto dtype = float_type(tensor->type);
  if (!dtype) refuse("its weights have no float type");
  conv.dtype = *dtype;
  if (conv.shape.size() < 3 || conv.shape.size() > 2 + kMaxSpatial ||
      std::find(conv.shape.begin(), conv.shape.end(), 0) != conv.shape.end())
    refuse("its weights have shape ", conv.shape);
  const size_t axes = conv.shape.size() - 2;
  const Dims kernel(conv.shape.begin() + 2, conv.shape.end());
  const auto ints = [&](const char* name, const Dims& missing) {
    Dims v = graph.integers(node, name);
    if (v.empty()) return missing;
    if (v.size() != missing.size())
      refuse("attribute '", name, "' = ", v, " does not fit weights of shape ", conv.shape);
    return v;
  };
  const Dims strides = ints("strides", Dims(axes, 1));
  if (strides != Dims(axes, 1)) refuse("attribute 'strides' = ", strides, ": only stride 1 is equivalent");
  conv.dilations = ints("dilations", Dims(axes, 1));
  if (*std::min_element(conv.dilations.begin(), conv.dilations.end()) < 1 || ints("kernel_shape", kernel) != kernel)
    refuse("attribute 'dilations' or 'kernel_shape' is not valid");
  conv.group = graph.integer(node, "group", 1);
  if (conv.group < 1 || conv.shape[0] % conv.group)
    refuse("attribute 'group' = ", conv.group, " does not divide ", conv.shape[0], " output channels");
  const Dims pads = ints("pads", Dims(2 * axes, 0));
  const std::string mode = graph.text(node, "auto_pad", "NOTSET");
  if (mode == "NOTSET" || mode.empty()) {
    conv.begins.assign(pads.begin(), pads.begin() + static_cast<ptrdiff_t>(axes));
    conv.ends.assign(pads.begin() + static_cast<ptrdiff_t>(axes), pads.end());
  } else if (mode == "VALID") {
    conv.begins = conv.ends = Dims(axes, 0);
  } else if (mode == "SAME_UPPER" || mode == "SAME_LOWER") {
    for (int64_t r : conv.reach()) {
      conv.begins.push_back(mode == "SAME_UPPER" ? r / 2 : r - r / 2);
      conv.ends.push_back(r - conv.begins.back());
    }
  } else {
    refuse("attribute 'auto_pad' = '", mode, "' is not valid");
  }
  if (mode != "NOTSET" && !mode.empty() && !graph.integers(node, "pads").empty())
    refuse("it has attributes 'auto_pad' = '", mode, "' and 'pads', which exclude each other");
  for (const Dims* side : {&conv.begins, &conv.ends})
    if (*std::min_element(side->begin(), side->end()) < 0) refuse("attribute 'pads' = ", pads, " has a negative entry");
  return conv;
}

Pads transposed_pads(const Convolution& conv) {
  const Dims reach = conv.reach();
  const auto cropped = [&](const char* name, const Dims& side) {
    Dims result;
    for (size_t i = 0; i < reach.size(); ++i) {
      if (side[i] > reach[i])
        refuse(side[i], " zeros at the ", name, " of spatial axis ", i,
               " exceed the kernel's reach, (kernel - 1) * dilation = ", reach[i]);
      result.push_back(reach[i] - side[i]);
    }
    return result;
  };
  Pads pads;
  pads.begins = cropped("begin", conv.begins);
  pads.ends = cropped("end", conv.ends);
  return pads;
}

namespace {

Attributes attributes_of(const Equivalent& form) {
  Attributes a;
  a.kernel_shape.assign(form.w_shape.begin() + 2, form.w_shape.end());
  a.strides = form.strides;
  a.pads = form.begins;
  a.pads.insert(a.pads.end(), form.ends.begin(), form.ends.end());
  a.group = form.group;
  a.dilations = form.dilations;
  a.output_padding = form.output_padding;
  return a;
}

Plan engine_plan(const Problem& problem, DType dtype, const std::string& algorithm) {
  const KernelSet& kernels = kernel_set();
  return Prepared(problem, dtype, kernels, machine(kernels, 1), algorithm).plan();
}

}  // namespace

void check_gain(const Convolution& conv, const Equivalent& form, const Dims& growth, const Moved& moved, const Value& x,
                const std::vector<const Node*>& gone, const Graph& graph, const Options& options, double sure) {
  const int axes = conv.axes();
  Dims image = graph.dims(x);
  if (image.size() != static_cast<size_t>(axes) + 2) image.assign(static_cast<size_t>(axes) + 2, -1);
  if (image[1] >= 0 && image[1] != conv.channels())
    refuse("its input has ", image[1], " channels, its weights are for ", conv.channels());
  double pixels = 1;
  for (size_t i = 0; i < image.size(); ++i) {
    if (i == 1) continue;
    if (image[i] < 0) image[i] = i == 0 ? 1 : nominal_side(axes);
    if (image[i] == 0) return;
    pixels *= static_cast<double>(image[i]);
  }
  double stock = moving_cost(pixels * static_cast<double>(moved.saved), conv.dtype) +
                 moving_cost(pixels * static_cast<double>(moved.shuffled), conv.dtype, true);
  // The Conv is a transposed convolution of stride 1, too.
  Attributes plain;
  plain.group = conv.group;
  plain.dilations = conv.dilations;
  const Dims reach = conv.reach();
  for (const Dims* side : {&conv.begins, &conv.ends})
    for (size_t i = 0; i < reach.size(); ++i) plain.pads.push_back(std::max<int64_t>(0, reach[i] - (*side)[i]));
  Dims large = image, plain_w = conv.shape;
  large[1] = plain_w[0] = conv.channels();
  plain_w[1] = conv.shape[0] / conv.group;
  for (size_t i = 0; i < growth.size(); ++i) large[2 + i] *= growth[i];
  const Problem alone = make_problem(plain, {large, plain_w, {}, {}});
  const BlockedLayout layout(graph);
  if (sure < 1) {
    const bool columns = !layout.is_blocked(conv.node->outputs[0]);
    stock += least_conv_cost(alone, engine_plan(alone, conv.dtype, name(Algorithm::kDirect)), conv.dtype, columns);
  } else {
    double least = 0;
    for (Algorithm algorithm : kAlgorithms) {
      if (algorithm == Algorithm::kWinograd) continue;
      const double cost = engine_plan(alone, conv.dtype, name(algorithm)).cost;
      least = least == 0 ? cost : std::min(least, cost);
    }
    stock += least;
  }
  image[1] = form.w_shape[0];
  const std::vector<const Value*> values = around(gone, {&x});
  stock += layout.cost(values);
  Attributes attributes = attributes_of(form);
  if (conv.dtype == DType::kFloat32) attributes.weights = options.weights;
  const Problem problem = make_problem(attributes, {image, form.w_shape, {}, {}});
  const double ours = BlockedLayout(graph, gone, {&x}).cost(values) +
                      moving_cost(pixels * static_cast<double>(moved.added), conv.dtype) +
                      engine_plan(problem, conv.dtype, options.algorithm).cost;
  if (ours >= sure * stock)
    refuse("it would not be faster: the plan's cost is ", ours / stock,
           " times the estimate for the nodes as they are");
}

Site make_site(const Convolution& conv, const Equivalent& form, const Value& x, const char* pattern,
               const Graph& graph) {
  Site site;
  site.pattern = pattern;
  site.label = conv.node->label();
  site.dtype = conv.dtype;
  site.attributes = attributes_of(form);
  site.x = x.name;
  site.x_declared = graph.dims(x);
  site.w = conv.node->inputs[1]->name;
  site.w_shape = form.w_shape;
  site.constant_w = true;
  return site;
}

void check_unread(const std::vector<const Node*>& chain) {
  for (size_t i = 0; i + 1 < chain.size(); ++i) {
    const Value& inner = *chain[i]->outputs[0];
    if (!inner.only_reader())
      refuse("'", inner.name, "' has other readers: ONNX Runtime has to make it for them all the same");
  }
}

Array swap_channels(const Array& w, int64_t group) {
  const int64_t m = w.shape[0] / group, c = w.shape[1];
  const auto taps = static_cast<int64_t>(w.values.size()) / (w.shape[0] * c);
  Array result{w.shape, std::vector<double>(w.values.size())};
  result.shape[0] = group * c;
  result.shape[1] = m;
  for (int64_t g = 0; g < group; ++g)
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < c; ++j)
        std::copy_n(w.values.begin() + ((g * m + i) * c + j) * taps, taps,
                    result.values.begin() + ((g * c + j) * m + i) * taps);
  return result;
}

std::function<std::vector<double>(std::vector<double>)> flip(const Convolution& conv) {
  return [conv](std::vector<double> w) {
    Array flipped = swap_channels({conv.shape, std::move(w)}, conv.group);
    const auto taps = static_cast<ptrdiff_t>(element_count(Dims(conv.shape.begin() + 2, conv.shape.end()), "kernel"));
    for (auto tap = flipped.values.begin(); tap != flipped.values.end(); tap += taps) std::reverse(tap, tap + taps);
    return flipped.values;
  };
}

}  // namespace ort_tconv::provider
