#include "ort/provider/patterns/affine.h"

#include <algorithm>
#include <cmath>

#include "ort/provider/weights.h"

namespace ort_tconv::provider {
namespace {

std::optional<Affine> arithmetic(const Node& node, const Value& value, int64_t channels, size_t rank,
                                 const Graph& graph) {
  const bool first = node.input(0) == &value;
  const auto tensor = graph.constant(node.input(first ? 1 : 0));
  if (!tensor) return std::nullopt;
  auto factors = per_channel(*tensor, channels, rank);
  if (!factors) refuse("its constant has shape ", tensor->shape, ": not one for each channel");
  Affine result;
  if (node.op == "Add") {
    result.shift = *factors;
  } else if (node.op == "Sub") {
    result.shift = *factors;
    if (first)
      for (double& v : result.shift) v = -v;
    else result.scale = {-1.0};
  } else if (node.op == "Mul") {
    result.scale = *factors;
  } else if (first) {
    for (double& v : *factors) {
      if (v == 0) refuse("it divides by zero");
      v = 1 / v;
    }
    result.scale = *factors;
  } else {
    return std::nullopt;
  }
  return result;
}

Affine normalization(const Node& node, const Value& value, int64_t channels, const Graph& graph) {
  if (graph.integer(node, "training_mode", 0) != 0) refuse("it is in training mode");
  for (size_t i = 1; i < node.outputs.size(); ++i)
    if (node.outputs[i]) refuse("it is in training mode");
  if (graph.integer(node, "spatial", 1) != 1) refuse("its attribute 'spatial' is not 1");
  const double epsilon = graph.number(node, "epsilon", 1e-5f);
  if (node.input(0) != &value || node.inputs.size() != 5) refuse("its parameters are computed");
  std::vector<std::vector<double>> values;
  const char* const names[] = {"scale", "B", "mean", "var"};
  for (size_t i = 0; i < 4; ++i) {
    const auto tensor = graph.constant(node.inputs[i + 1]);
    if (!tensor) refuse("its input ", names[i], " is not a constant");
    if (tensor->shape != Dims{channels}) refuse("its input ", names[i], " has shape ", tensor->shape);
    values.push_back(to_double(*tensor));
  }
  Affine result{{}, {}};
  for (size_t m = 0; m < values[0].size(); ++m) {
    result.scale.push_back(values[0][m] / std::sqrt(values[3][m] + epsilon));
    result.shift.push_back(values[1][m] - result.scale[m] * values[2][m]);
  }
  return result;
}

bool finite(const std::vector<double>& v) {
  return std::all_of(v.begin(), v.end(), [](double x) { return std::isfinite(x); });
}

}  // namespace

bool is_arithmetic(const Node& node) {
  // Before version 7 broadcasting was different.
  return node.since >= 7 && (node.own("Add") || node.own("Sub") || node.own("Mul") || node.own("Div"));
}

std::optional<std::vector<double>> per_channel(const Tensor& tensor, int64_t channels, size_t rank) {
  if (tensor.shape.size() > rank) return std::nullopt;
  const size_t missing = rank - tensor.shape.size();
  int64_t count = 1;
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    if (missing + i == 1) count = tensor.shape[i];
    else if (tensor.shape[i] != 1) return std::nullopt;
  }
  if (count != 1 && count != channels) return std::nullopt;
  return to_double(tensor);
}

std::optional<Affine> read_affine(const Node& node, const Value& value, int64_t channels, size_t rank,
                                  const Graph& graph) {
  std::optional<Affine> found;
  if (node.own("BatchNormalization") && node.since >= 7) found = normalization(node, value, channels, graph);
  else if (is_arithmetic(node)) found = arithmetic(node, value, channels, rank, graph);
  if (found && !(finite(found->scale) && finite(found->shift))) refuse("its constants are not all finite");
  return found;
}

}  // namespace ort_tconv::provider
