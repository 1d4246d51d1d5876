#include "ort/provider/patterns/resize.h"

#include <algorithm>
#include <cmath>

#include "core/status.h"
#include "ort/provider/weights.h"

namespace ort_tconv::provider {

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

namespace {

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

}  // namespace

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

}  // namespace ort_tconv::provider
