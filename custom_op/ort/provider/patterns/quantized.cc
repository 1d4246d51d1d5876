// DequantizeLinear, ConvTranspose, (Relu or Clip,) (QuantizeLinear,): the scales leave the sum,
//   sum s_x (q_x - z_x) * s_w (q_w - z_w) = s_x s_w sum (q_x - z_x) (q_w - z_w),
// and what is left of it is a sum of integers, which the operator forms exactly.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/status.h"
#include "ort/provider/patterns/activation.h"
#include "ort/provider/patterns/dequantized.h"
#include "ort/provider/patterns/patterns.h"
#include "ort/provider/weights.h"

namespace ort_tconv::provider {
namespace {

using Input = QuantizedNode::Input;

QuantizedType quantized_type(ONNXTensorElementDataType type, const char* what) {
  if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8) return QuantizedType::kUint8;
  if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8) return QuantizedType::kInt8;
  refuse(what, " is not of type uint8 or int8");
}

template <class T> Operand kept(Dims shape, const std::vector<T>& values) {
  return {"", std::move(shape), copy_of(values.data(), static_cast<int64_t>(values.size() * sizeof(T)))};
}

Operand value(const Value& v) { return {v.name, {}, nullptr}; }

// int8 and uint8 alike.
Operand kept_zeros(const std::vector<double>& zeros, Dims shape) {
  std::vector<uint8_t> bytes;
  for (double zero : zeros) bytes.push_back(static_cast<uint8_t>(static_cast<int>(zero)));
  return kept(std::move(shape), bytes);
}

Operand zero_of(const Dequantized& d) { return d.zero ? value(*d.zero) : kept_zeros({0}, {}); }

// Throws Refusal for constant scales that the operator does not take.
void check_scales(const Value& scale, bool positive, const std::string& of, const Graph& graph) {
  const auto tensor = graph.constant(&scale);
  if (!tensor) return;
  for (double v : to_double(*tensor))
    if (!std::isfinite(v) || (positive && !(v > 0)))
      refuse("the scale ", v, " of ", of, " is not ", positive ? "positive and finite" : "finite");
}

// Scale and zero point of W as the operator wants them.
void set_weight_scales(QuantizedSite& q, const Dequantized& w, int64_t group, const Graph& graph) {
  auto &scale = q.operands[Input::kWScale], &zero = q.operands[Input::kWZero];
  scale = value(*w.scale);
  zero = zero_of(w);
  if (is_single(*w.scale, graph)) return;
  const auto scale_shape = known_shape(*w.scale, graph), shape = known_shape(*w.values, graph);
  if (!scale_shape || !shape) refuse("the shapes of W and of its scales are not known");
  const auto rank = static_cast<int64_t>(shape->size());
  const int64_t axis = w.axis < 0 ? w.axis + rank : w.axis;
  if (scale_shape->size() != 1 || axis < 0 || axis >= rank || (*scale_shape)[0] != (*shape)[axis])
    refuse("the scales of W have shape ", *scale_shape, ", and W has ", *shape);
  if (axis == 1) return;
  if (axis != 0) refuse("W has a scale for each position of its axis ", axis);
  const auto scales = graph.constant(w.scale), zeros = w.zero ? graph.constant(w.zero) : std::nullopt;
  if (!scales || (w.zero && !zeros)) refuse("W has a scale for each input channel (axis 0), which is not a constant");
  const std::vector<double> all = to_double(*scales), points = zeros ? to_double(*zeros) : std::vector<double>{0};
  if (points.size() != 1 && points.size() != all.size())
    refuse("W has ", all.size(), " scales and ", points.size(), " zero points");
  const bool each = group == (*shape)[0];  // a group's one input channel has the scale of all its outputs
  const auto same = [](const std::vector<double>& v) {
    return std::all_of(v.begin(), v.end(), [&](double e) { return e == v[0]; });
  };
  if (!each && (!same(all) || !same(points)))
    refuse(
        "W has a scale or zero point for each input channel (axis 0), which a sum over input channels cannot "
        "apply at its end; quantise along axis 1");
  std::vector<float> repeated;
  std::vector<double> repeated_points;
  const size_t inputs = each ? all.size() : 1, outputs = each ? static_cast<size_t>((*shape)[1]) : 1;
  for (size_t c = 0; c < inputs; ++c) {
    repeated.insert(repeated.end(), outputs, static_cast<float>(all[c]));
    repeated_points.insert(repeated_points.end(), outputs, points[points.size() == 1 ? 0 : c]);
  }
  const auto count = static_cast<int64_t>(repeated.size());
  scale = kept(Dims{count}, repeated);
  zero = kept_zeros(repeated_points, {count});
}

// No sum of the integers is larger; nothing if the shape of W is not known.
std::optional<int64_t> largest_sum(const Attributes& a, const Value& w, const Graph& graph) {
  const auto shape = known_shape(w, graph);
  if (!shape || shape->size() < 3) return std::nullopt;
  const auto entry = [](const Dims& v, size_t i) { return i < v.size() && v[i] > 0 ? v[i] : 1; };
  int64_t products = (*shape)[0] / std::max<int64_t>(a.group, 1);
  for (size_t i = 0; i + 2 < shape->size(); ++i) {
    // Of the taps of an axis, those that meet in one pixel are this far apart.
    const int64_t stride = entry(a.strides, i), step = stride / std::gcd(stride, entry(a.dilations, i));
    const int64_t taps = (*shape)[i + 2] / step + ((*shape)[i + 2] % step != 0);
    products = checked_mul(products, taps, "products of a sum");
  }
  return checked_mul(products, 255 * 255, "largest sum");
}

constexpr int64_t kMost = std::numeric_limits<int32_t>::max();

// Whether the integers of B are in units of the products of the other two scales, and no sum with them overflows.
bool in_units(const Dequantized& b, const Dequantized& x, const Dequantized& w, std::optional<int64_t> largest,
              const Graph& graph) {
  constexpr float kSame = 4 * 0x1p-24f;  // two products of the same scales, each rounded once or twice
  if (b.type != ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32) return false;
  const auto integers = graph.constant(b.values);
  if (!integers || !largest) return false;
  for (double v : to_double(*integers))
    if (std::fabs(v) > static_cast<double>(kMost - *largest)) return false;
  const auto unit = graph.constant(b.scale), x_scale = graph.constant(x.scale), w_scale = graph.constant(w.scale);
  if (!unit || !x_scale || !w_scale) return false;
  if (b.zero) {
    const auto zero = graph.constant(b.zero);
    if (!zero) return false;
    for (double v : to_double(*zero))
      if (v != 0) return false;
  }
  if (w.axis != 1 && !is_single(*w.scale, graph)) return false;
  const auto channels = known_shape(*b.values, graph);
  const auto units = to_double(*unit), x_scales = to_double(*x_scale), w_scales = to_double(*w_scale);
  const size_t m = channels && channels->size() == 1 ? static_cast<size_t>((*channels)[0]) : 0;
  if (m == 0 || w_scales.empty() || m % w_scales.size() != 0 || (units.size() != 1 && units.size() != m)) return false;
  for (size_t i = 0; i < m; ++i) {
    const float expected = static_cast<float>(x_scales[0]) * static_cast<float>(w_scales[i % w_scales.size()]);
    const float found = static_cast<float>(units[units.size() == 1 ? 0 : i]);
    if (!(std::fabs(found - expected) <= kSame * std::fabs(expected))) return false;
  }
  return true;
}

// Throws Refusal for constants that the operator does not take together, although it takes each.
void check_together(const QuantizedSite& q, const std::optional<std::vector<double>>& bias, const Graph& graph) {
  const auto floats = [&](Input i) -> std::vector<double> {
    const auto& [name, shape, data] = q.operands[i];
    if (!data) {
      const auto tensor = graph.constant(graph.find(name));
      return tensor ? to_double(*tensor) : std::vector<double>();
    }
    const auto* const v = static_cast<const float*>(data.get());
    return {v, v + element_count(shape, "scales")};
  };
  const auto x = floats(Input::kXScale), w = floats(Input::kWScale), y = floats(Input::kYScale);
  if (y.empty()) return;
  const auto y_scale = static_cast<float>(y[0]);
  for (double v : x.empty() ? x : w)
    if (!std::isfinite(static_cast<float>(x[0]) * static_cast<float>(v) / y_scale))
      refuse("the scales ", x[0], " of X, ", v, " of W and ", y_scale, " of the result overflow together");
  if (!bias) return;
  for (double v : *bias)
    if (!std::isfinite(static_cast<float>(v) / y_scale))
      refuse("the value ", v, " of B is not finite in units of the result's scale, ", y_scale);
}

// An activation of constants; others are left to run on their own.
std::optional<Activation> exact_activation(const Node& node, const Graph& graph) {
  if (node.own("Relu")) return Activation{"Relu", {}};
  if (!node.own("Clip")) return std::nullopt;
  try {
    return Activation{"Clip", clip_bounds(node, graph)};
  } catch (const Refusal&) {
    return std::nullopt;
  }
}

// What follows the convolution.
void read_tail(Site& site, const Graph& graph) {
  auto& q = *site.quantized;
  const auto append = [&](const Node& node) {
    site.nodes.push_back(&node);
    site.output = node.outputs[0]->name;
  };
  const auto follows = [&]() -> const Node* {
    const Node* const node = site.nodes.back()->outputs[0]->only_reader();
    return node && node->input(0) && node->input(0)->name == site.output ? node : nullptr;
  };
  if (const Node* const next = follows())
    if (const auto activation = exact_activation(*next, graph)) {
      append(*next);
      set_activation(site, *activation);
    }
  const Node* const last = follows();
  if (!is_linear(last, "QuantizeLinear")) {
    q.types.y = QuantizedType::kFloat32;
    q.operands[Input::kYScale] = kept<float>({}, {1.f});
    q.operands[Input::kYZero] = kept<float>({}, {0.f});
    return;
  }
  const Value *scale = last->input(1), *zero = last->input(2);
  if (!scale || !is_single(*scale, graph)) refuse("the scale of the QuantizeLinear behind it is not known to be one");
  q.types.y = quantized_type(graph.type(*last->outputs[0]), "the result of the QuantizeLinear behind it");
  if (graph.integer(*last, "block_size", 0) != 0 || graph.type(*scale) != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)
    refuse("the QuantizeLinear behind it is not one of float32 with one scale");
  check_scales(*scale, true, "the QuantizeLinear behind it", graph);
  append(*last);
  q.operands[Input::kYScale] = value(*scale);
  q.operands[Input::kYZero] = zero ? value(*zero) : kept_zeros({0}, {});
}

}  // namespace

std::optional<Site> quantized(const Node& node, const Graph& graph, const Options& options) {
  if (!node.own("ConvTranspose")) return std::nullopt;
  const auto x = read_dequantized(node.input(0), "X", graph), w = read_dequantized(node.input(1), "W", graph);
  if (!x || !w) return std::nullopt;
  auto site = conv_transpose(node, graph, options);
  site->pattern = "quantized";
  auto& q = site->quantized.emplace();
  q.types.x = quantized_type(x->type, "the quantised X");
  q.types.w = quantized_type(w->type, "the quantised W");
  if (!is_single(*x->scale, graph)) refuse("the scale of X is not known to be a single one");
  check_scales(*x->scale, true, "X", graph);
  check_scales(*w->scale, false, "W", graph);
  q.operands[Input::kX] = value(*x->values);
  q.operands[Input::kXScale] = value(*x->scale);
  q.operands[Input::kXZero] = zero_of(*x);
  q.operands[Input::kW] = value(*w->values);
  set_weight_scales(q, *w, site->attributes.group, graph);

  const auto largest = largest_sum(site->attributes, *w->values, graph);
  if (largest && *largest > kMost) refuse("the sums of its products may reach ", *largest, ", more than 32 bits hold");

  site->nodes = {x->node, w->node};
  for (const auto* each : {&*x, &*w})
    if (!each->node->outputs[0]->only_reader()) refuse("'", each->node->outputs[0]->name, "' has other readers");
  std::optional<std::vector<double>> float_bias;  // if it is a constant
  if (const Value* const bias = node.input(2)) {
    const auto b = read_dequantized(bias, "B", graph);
    if (b) check_scales(*b->scale, false, "B", graph);
    const bool integers = b && in_units(*b, *x, *w, largest, graph);
    if (integers && !bias->only_reader()) refuse("'", bias->name, "' has other readers");
    if (integers) site->nodes.push_back(b->node);
    q.float_bias = !integers;
    q.operands[Input::kB] = value(integers ? *b->values : *bias);
    if (const auto tensor = b ? graph.constant(b->values) : graph.constant(bias); tensor && !integers) {
      const auto from = b ? b->constant(graph) : std::nullopt;
      if (from) float_bias = (*from)(to_double(*tensor));
      else if (!b) float_bias = to_double(*tensor);
    }
  }
  site->nodes.push_back(&node);
  read_tail(*site, graph);
  check_together(q, float_bias, graph);
  site->x_declared = graph.dims(*x->values);
  site->constant_w = graph.is_constant(w->values);
  return site;
}

}  // namespace ort_tconv::provider
