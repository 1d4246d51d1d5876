#include "ort/provider/patterns/dequantized.h"

#include <algorithm>
#include <functional>

#include "ort/provider/weights.h"

namespace ort_tconv::provider {
namespace {

bool is_integer(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT4:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT4:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32: return true;
    default: return false;
  }
}

double at(const std::vector<double>& each, size_t m) { return each[each.size() == 1 ? 0 : m]; }

}  // namespace

std::optional<Dims> known_shape(const Value& value, const Graph& graph) {
  if (const auto tensor = graph.constant(&value)) return tensor->shape;
  const Dims dims = graph.dims(value);
  if (dims.empty() || std::any_of(dims.begin(), dims.end(), [](int64_t n) { return n < 0; })) return std::nullopt;
  return dims;
}

bool is_single(const Value& value, const Graph& graph) {
  const auto shape = known_shape(value, graph);
  return shape && (shape->empty() || *shape == Dims{1});
}

bool is_linear(const Node* node, std::string_view type) {
  return node && node->op == type && (node->domain.empty() || node->domain == "com.microsoft");
}

std::optional<Dequantized> read_dequantized(const Value* value, const char* name, const Graph& graph) {
  const Node* const node = value ? value->producer : nullptr;
  if (!is_linear(node, "DequantizeLinear")) return std::nullopt;
  constexpr int kVersions[] = {10, 13, 19, 21, 23, 24, 25};
  if (node->domain.empty() && std::find(std::begin(kVersions), std::end(kVersions), node->since) == std::end(kVersions))
    refuse("the version of the DequantizeLinear of ", name, ", ", node->since, ", is not one that is known here");
  Dequantized d{node, name, node->input(0), node->input(1), node->input(2)};
  if (!d.values || !d.scale) refuse("the DequantizeLinear of ", name, " lacks an input");
  d.axis = graph.integer(*node, "axis", 1);
  if (graph.integer(*node, "block_size", 0) != 0)
    refuse("the DequantizeLinear of ", name, " has one scale for each block of values");
  d.type = graph.type(*d.values);
  if (!is_integer(d.type)) refuse("the quantised ", name, " is not of integers");
  if (graph.type(*d.scale) != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ||
      graph.type(*value) != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)
    refuse(name, " is not dequantised to float32");
  return d;
}

std::optional<Dequantized::Constant> Dequantized::constant(const Graph& graph) const {
  const auto all = graph.constant(values), scales = graph.constant(scale);
  const auto zeros = zero ? graph.constant(zero) : std::nullopt;
  if (!all || !scales || (zero && !zeros) || scales->shape.size() > 1) return std::nullopt;
  Constant c{to_double(*scales), zeros ? to_double(*zeros) : std::vector<double>{0}, all->shape, axis};
  const auto rank = static_cast<int64_t>(c.shape.size());
  if (c.axis < 0) c.axis += rank;
  const size_t n = c.scale.size();
  if (n != 1) {
    if (c.axis < 0 || c.axis >= rank) return std::nullopt;
    if (static_cast<int64_t>(n) != c.shape[c.axis])
      refuse("the scales of ", name, " have shape ", scales->shape, ", and ", name, " has ", c.shape);
  }
  if (c.zero.size() != 1 && c.zero.size() != n) refuse(name, " has ", n, " scales and ", c.zero.size(), " zero points");
  return c;
}

std::vector<double> Dequantized::Constant::operator()(std::vector<double> v) const {
  const int64_t inner = inner_values();
  for (size_t i = 0; i < v.size(); ++i) {
    const size_t m = place(i, inner);
    v[i] = static_cast<float>(v[i] - at(zero, m)) * static_cast<float>(at(scale, m));
  }
  return v;
}

std::vector<double> Dequantized::Constant::channel_scales(const std::vector<double>& v, int64_t group) const {
  if (shape.size() < 2) refuse("their number of output channels is not known");
  const int64_t inputs = shape[0], outputs = shape[1], channels = outputs * group, inner = inner_values();
  double least = 0, most = 0;
  for (size_t i = 0; i < v.size(); ++i) {
    const double integer = v[i] - at(zero, place(i, inner));
    least = std::min(least, integer);
    most = std::max(most, integer);
  }
  const bool single = std::adjacent_find(scale.begin(), scale.end(), std::not_equal_to<>()) == scale.end();
  if (!single && axis != 1 && (axis != 0 || inputs != group))
    refuse("they have a scale for each position of axis ", axis, ", not for each output channel");
  if (least < -128 || most > 127)
    refuse("less their zero points they reach from ", least, " to ", most, ", beyond int8");
  std::vector<double> scales(static_cast<size_t>(channels));
  for (size_t m = 0; m < scales.size(); ++m) {
    const size_t of = single ? 0 : axis == 1 ? m % scale.size() : m / static_cast<size_t>(outputs);
    scales[m] = scale[of];
  }
  return scales;
}

int64_t Dequantized::Constant::inner_values() const {
  int64_t inner = 1;
  for (size_t i = static_cast<size_t>(axis) + 1; scale.size() > 1 && i < shape.size(); ++i) inner *= shape[i];
  return inner;
}

size_t Dequantized::Constant::place(size_t i, int64_t inner) const {
  return scale.size() > 1 ? i / static_cast<size_t>(inner) % scale.size() : 0;
}

}  // namespace ort_tconv::provider
