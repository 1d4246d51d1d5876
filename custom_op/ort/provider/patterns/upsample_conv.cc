// Nearest upsampling by integers s, then a Conv of stride 1, is a transposed convolution of stride s: its kernel
// is the Conv's, flipped and convolved with a box of s ones.  converters/upsample_conv.py derives it.
#include <algorithm>
#include <cmath>

#include "core/status.h"
#include "ort/provider/patterns/convolution.h"
#include "ort/provider/patterns/patterns.h"
#include "ort/provider/weights.h"

namespace ort_tconv::provider {
namespace {

struct Trace { const Node *pad, *resize; };

std::optional<Trace> trace(const Node& node) {
  const Value* source = node.input(0);
  const Node* before = source ? source->producer : nullptr;
  const Node* pad = nullptr;
  if (before && before->own("Pad")) {
    pad = before;
    source = pad->input(0);
    before = source ? source->producer : nullptr;
  }
  if (!before || !(before->own("Resize") || before->own("Upsample")) || !before->input(0)) return std::nullopt;
  return Trace{pad, before};
}

// ---- Resize -------------------------------------------------------------------------------------

// Output size over input size of each axis.
std::vector<double> enlargement(const Node& node, const Graph& graph) {
  const Value *scales = nullptr, *sizes = nullptr;
  if (node.own("Upsample")) {
    scales = node.input(1);
    if (!scales) return graph.numbers(node, "scales");
  } else {
    const size_t first = node.since == 10 ? 1 : 2;
    scales = node.input(first);
    sizes = node.input(first + 1);
  }
  const auto tensor = graph.constant(sizes ? sizes : scales);
  const Dims dims = graph.dims(*node.inputs[0]);
  const auto unknown = [&]() { refuse("the scales or sizes of ", node.op, " are not known before it runs"); };
  std::vector<double> wanted;
  if (tensor) {
    wanted = to_double(*tensor);
  } else {
    // ONNX Runtime may know the result all the same.
    const Dims result = graph.dims(*node.outputs[0]);
    if (dims.empty() || result.size() != dims.size()) unknown();
    for (size_t i = 0; i < dims.size(); ++i) {
      if (dims[i] <= 0 || result[i] < 0) unknown();
      wanted.push_back(static_cast<double>(result[i]) / static_cast<double>(dims[i]));
    }
    return wanted;
  }
  const Dims axes = graph.integers(node, "axes");
  if (axes.empty()) {
    if (!sizes) return wanted;
    if (dims.size() != wanted.size()) unknown();
    for (size_t i = 0; i < wanted.size(); ++i) {
      if (dims[i] <= 0) unknown();
      wanted[i] /= static_cast<double>(dims[i]);
    }
    return wanted;
  }
  if (dims.empty() || axes.size() != wanted.size()) unknown();
  std::vector<double> ratios(dims.size(), 1.0);
  for (size_t i = 0; i < axes.size(); ++i) {
    const auto rank = static_cast<int64_t>(dims.size());
    const auto axis = static_cast<size_t>(((axes[i] % rank) + rank) % rank);
    if (sizes && dims[axis] <= 0) unknown();
    ratios[axis] = sizes ? wanted[i] / static_cast<double>(dims[axis]) : wanted[i];
  }
  return ratios;
}

// Whether Resize by the integer `s` reads value o / s for output o.  The index formula is evaluated, in float32
// as ONNX Runtime does, for every output of `size` values; of an unknown size three tell, since in all modes but
// align_corners the index grows by 1 from o to o + s.
bool repeats(int64_t s, int64_t size, const std::string& coordinates, const std::string& nearest) {
  if (size < 0 && coordinates == "align_corners") return false;
  if (size < 0) size = 3;
  const auto scale = static_cast<float>(s);
  for (int64_t output = 0; output < s * size; ++output) {
    const auto o = static_cast<float>(output);
    float at;
    if (coordinates == "asymmetric") at = o / scale;
    else if (coordinates == "half_pixel" || coordinates == "half_pixel_symmetric" ||
             coordinates == "pytorch_half_pixel")
      at = (o + 0.5f) / scale - 0.5f;
    else if (coordinates == "tf_half_pixel_for_nn") at = (o + 0.5f) / scale;
    else if (coordinates == "align_corners")
      at = o * static_cast<float>(size - 1) / static_cast<float>(std::max<int64_t>(1, s * size - 1));
    else return false;
    float index;
    if (nearest == "round_prefer_floor") index = std::ceil(at - 0.5f);
    else if (nearest == "round_prefer_ceil") index = std::floor(at + 0.5f);
    else if (nearest == "floor") index = std::floor(at);
    else if (nearest == "ceil") index = std::ceil(at);
    else return false;
    if (std::min(std::max(index, 0.f), static_cast<float>(size - 1)) != static_cast<float>(output / s)) return false;
  }
  return true;
}

// Factors, one an axis, by which `node` repeats values.  Throws Refusal if it does not.
Dims integer_repeats(const Node& node, const Graph& graph) {
  const bool resize = node.own("Resize");
  const Dims known = resize ? Dims{10, 11, 13, 18, 19} : Dims{7, 9};
  if (std::find(known.begin(), known.end(), node.since) == known.end())
    refuse("version ", node.since, " of ", node.op, " is newer than this provider knows (", known.back(), ")");
  const std::string mode = graph.text(node, "mode", "nearest");
  if (mode != "nearest")
    refuse(node.op, "'s mode '", mode,
           "' is not 'nearest': next to the border it repeats the edge where the Conv's padding has zeros, so no "
           "transposed convolution equals it");
  if (graph.integer(node, "antialias", 0)) refuse("attribute 'antialias' of Resize is set");
  if (graph.text(node, "keep_aspect_ratio_policy", "stretch") != "stretch")
    refuse("attribute 'keep_aspect_ratio_policy' of Resize is not 'stretch'");
  std::string coordinates = "asymmetric", nearest = "floor";
  if (resize && node.since > 10) {
    coordinates = graph.text(node, "coordinate_transformation_mode", "half_pixel");
    nearest = graph.text(node, "nearest_mode", "round_prefer_floor");
  }
  const auto ratios = enlargement(node, graph);
  const Dims dims = graph.dims(*node.inputs[0]);
  Dims factors;
  for (size_t axis = 0; axis < ratios.size(); ++axis) {
    const double ratio = ratios[axis];
    if (!(ratio >= 1 && ratio <= 1 << 16) || ratio != std::floor(ratio))
      refuse(node.op, " enlarges axis ", axis, " by ", ratio, ", which is not an integer");
    factors.push_back(static_cast<int64_t>(ratio));
  }
  for (size_t axis = 0; axis < factors.size(); ++axis) {
    const int64_t size = dims.size() == factors.size() ? dims[axis] : -1;
    if (factors[axis] > 1 && !repeats(factors[axis], size, coordinates, nearest))
      refuse("coordinate_transformation_mode '", coordinates, "' with nearest_mode '", nearest,
             "' does not repeat each value of axis ", axis, " ", factors[axis], " times");
  }
  return factors;
}

// ---- Pad ----------------------------------------------------------------------------------------

struct Padding {
  std::string mode = "constant";  // of zeros, or edge or reflect
  Dims begins, ends;              // of the spatial axes
};

Padding read_padding(const Node& node, size_t axes, const Graph& graph) {
  Padding result;
  result.mode = graph.text(node, "mode", "constant");
  if (result.mode != "constant" && result.mode != "edge" && result.mode != "reflect")
    refuse("Pad's mode '", result.mode, "' is not constant, edge or reflect");
  Dims amounts = graph.integers(node, "pads");
  double value = graph.number(node, "value", 0.f);
  if (node.inputs.size() > 1) {
    const auto tensor = graph.constant(node.input(1));
    if (!tensor) refuse("what Pad adds is not known before it runs");
    amounts.clear();
    for (double v : to_double(*tensor)) amounts.push_back(static_cast<int64_t>(v));
    if (node.input(2)) {
      const auto constant = graph.constant(node.input(2));
      if (!constant || element_count(constant->shape, "size") < 1) refuse("Pad adds an unknown value, not zeros");
      value = to_double(*constant)[0];
    }
  }
  if (result.mode == "constant" && value != 0) refuse("Pad adds ", value, ", not zeros");
  for (int64_t amount : amounts)
    if (amount < 0) refuse("Pad's pads ", amounts, " remove values");
  const size_t count = amounts.size() / 2, rank = axes + 2;
  Dims begins(rank, 0), ends(rank, 0);
  Dims which;
  if (node.input(3)) {
    const auto tensor = graph.constant(node.input(3));
    if (!tensor || element_count(tensor->shape, "size") != static_cast<int64_t>(count))
      refuse("the axes that Pad extends are not known before it runs");
    for (double v : to_double(*tensor)) which.push_back(static_cast<int64_t>(v));
  } else {
    if (count != rank) refuse("Pad extends other than the spatial axes");
    for (size_t i = 0; i < rank; ++i) which.push_back(static_cast<int64_t>(i));
  }
  for (size_t i = 0; i < count; ++i) {
    const auto axis = static_cast<size_t>(which[i] < 0 ? which[i] + static_cast<int64_t>(rank) : which[i]);
    if (axis >= rank) refuse("Pad extends other than the spatial axes");
    begins[axis] = amounts[i];
    ends[axis] = amounts[count + i];
  }
  if (begins[0] || begins[1] || ends[0] || ends[1]) refuse("Pad extends other than the spatial axes");
  result.begins.assign(begins.begin() + 2, begins.end());
  result.ends.assign(ends.begin() + 2, ends.end());
  return result;
}

bool any(const Dims& v) {
  return std::any_of(v.begin(), v.end(), [](int64_t n) { return n != 0; });
}

// Zeros before and after the upsampled image, and the copies of the edge of x in front of them.
struct Borders { Dims begins, ends, edge_begins, edge_ends; };

Borders borders(const Convolution& conv, const Padding& padding, const Dims& factors) {
  Borders result{conv.begins, conv.ends, {}, {}};
  if (!any(padding.begins) && !any(padding.ends)) return result;
  if (padding.mode == "constant") {
    for (size_t i = 0; i < factors.size(); ++i) {
      result.begins[i] += padding.begins[i];
      result.ends[i] += padding.ends[i];
    }
    return result;
  }
  if (any(conv.begins) || any(conv.ends)) refuse("Pad's mode '", padding.mode, "' is followed by Conv's own zeros");
  for (const Dims* side : {&padding.begins, &padding.ends}) {
    Dims& copies = side == &padding.begins ? result.edge_begins : result.edge_ends;
    Dims& left = side == &padding.begins ? result.begins : result.ends;
    for (size_t i = 0; i < factors.size(); ++i) {
      const int64_t amount = (*side)[i], s = factors[i];
      if (padding.mode == "reflect" && amount >= s)
        refuse("Pad reflects ", amount, " values, and only ", s - 1, " repeat the edge");
      copies.push_back((amount + s - 1) / s);
      // Of the copies that are too many, the operator crops what Pad did not add.
      left[i] = amount - s * copies[i];
    }
  }
  return result;
}

// ---- weights ------------------------------------------------------------------------------------

// h_j, the sum of w_t over r + (k - 1 - t) d = j with 0 <= r < s, along each spatial axis.
Array spread(Array w, const Dims& factors, const Dims& dilations) {
  for (size_t a = 0; a < factors.size(); ++a) {
    const size_t axis = 2 + a;
    const int64_t s = factors[a], d = dilations[a], k = w.shape[axis];
    int64_t outer = 1, inner = 1;
    for (size_t i = 0; i < axis; ++i) outer *= w.shape[i];
    for (size_t i = axis + 1; i < w.shape.size(); ++i) inner *= w.shape[i];
    Array h{w.shape, {}};
    h.shape[axis] = (k - 1) * d + s;
    h.values.assign(static_cast<size_t>(outer * h.shape[axis] * inner), 0.0);
    for (int64_t o = 0; o < outer; ++o)
      for (int64_t t = 0; t < k; ++t)
        for (int64_t j = t * d; j < t * d + s; ++j)
          for (int64_t i = 0; i < inner; ++i)
            h.values[(o * h.shape[axis] + j) * inner + i] += w.values[(o * k + k - 1 - t) * inner + i];
    w = std::move(h);
  }
  return w;
}

}  // namespace

std::optional<Site> upsample_conv(const Node& node, const Graph& graph) {
  if (!node.own("Conv")) return std::nullopt;
  const auto found = trace(node);
  if (!found) return std::nullopt;
  const auto [pad, resize] = *found;
  const Convolution conv = read_convolution(node, graph);
  const auto axes = static_cast<size_t>(conv.axes());
  Dims factors = integer_repeats(*resize, graph);
  if (factors.size() != axes + 2 || factors[0] != 1 || factors[1] != 1)
    refuse(resize->op, " enlarges by ", factors, "; batch and channels must stay");
  factors.erase(factors.begin(), factors.begin() + 2);
  if (*std::max_element(factors.begin(), factors.end()) == 1) refuse(resize->op, " enlarges no axis");
  const Padding padding = pad ? read_padding(*pad, axes, graph) : Padding{"constant", Dims(axes, 0), Dims(axes, 0)};
  const Borders around = borders(conv, padding, factors);
  Convolution padded = conv;
  padded.begins = around.begins;
  padded.ends = around.ends;
  const Pads pads = transposed_pads(padded);
  const bool repeated = !around.edge_begins.empty();

  Equivalent form{{conv.channels(), conv.shape[0] / conv.group}, factors, pads.begins, pads.ends, conv.group};
  const Dims reach = conv.reach();
  for (size_t i = 0; i < axes; ++i) form.w_shape.push_back(reach[i] + factors[i]);
  const auto kernel = [conv, factors](std::vector<double> w) {
    return spread(swap_channels({conv.shape, conv.weights(std::move(w))}, conv.group), factors, conv.dilations).values;
  };
  if (conv.dtype == DType::kFloat16)
    check_range(kernel(to_double(*graph.constant(node.inputs[1]))), conv.dtype, "weights");

  std::vector<const Node*> nodes{resize};
  if (pad) nodes.push_back(pad);
  nodes.push_back(&node);
  for (size_t i = 0; i + 1 < nodes.size(); ++i) {
    const Value& inner = *nodes[i]->outputs[0];
    if (inner.graph_output || inner.readers.size() != 1)
      refuse("'", inner.name, "' has other readers: ONNX Runtime has to make it for them all the same");
  }
  const Value& x = *resize->inputs[0];
  int64_t passed = 2 * conv.channels();
  for (int64_t s : factors) passed *= s;
  Moved moved;
  moved.saved = passed * static_cast<int64_t>(nodes.size() - 1);
  moved.added = repeated ? 2 * conv.channels() : 0;
  check_gain(repeated ? conv : padded, form, factors, moved, x, graph);

  Site site = make_site(conv, form, x, "upsample_conv", graph);
  site.nodes = nodes;
  site.output = node.outputs[0]->name;
  site.reform = kernel;
  if (const Value* b = node.input(2)) site.b = b->name;
  if (repeated) {
    site.margin.begins = site.margin.ends = {0, 0};
    site.margin.begins.insert(site.margin.begins.end(), around.edge_begins.begin(), around.edge_begins.end());
    site.margin.ends.insert(site.margin.ends.end(), around.edge_ends.begin(), around.edge_ends.end());
    site.margin.edge = true;
  }
  return site;
}

}  // namespace ort_tconv::provider
