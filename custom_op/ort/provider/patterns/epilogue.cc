// What follows a transposed convolution, up to the first activation, becomes a part of it:
// y_m = f(sum_c x_c * w_cm + b_m + z_m).  Constants per channel go into weights and bias, in float64 and rounded
// once.
#include <algorithm>
#include <cmath>

#include "core/status.h"
#include "ort/provider/patterns/activation.h"
#include "ort/provider/patterns/affine.h"
#include "ort/provider/patterns/patterns.h"
#include "ort/provider/weights.h"

namespace ort_tconv::provider {
namespace {

Site extended(const Site& site, const std::vector<const Node*>& nodes) {
  Site result = site;
  result.nodes.insert(result.nodes.end(), nodes.begin(), nodes.end());
  result.output = nodes.back()->outputs[0]->name;
  return result;
}

Site with_activation(const Site& site, const Activation& activation, const std::vector<const Node*>& nodes) {
  Site result = extended(site, nodes);
  set_activation(result, activation);
  return result;
}

Site with_residual(const Site& site, const Node& node, const Value& y, const Value& z, const Graph& graph) {
  if (!site.z.empty()) refuse("there is a residual already");
  const auto y_sizes = graph.sizes(y), z_sizes = graph.sizes(z);
  const auto equal = [](const Size& a, const Size& b) {
    return a.number == b.number && (a.number >= 0 || (!a.symbol.empty() && a.symbol == b.symbol));
  };
  if (!y_sizes || !z_sizes || !std::equal(y_sizes->begin(), y_sizes->end(), z_sizes->begin(), z_sizes->end(), equal))
    refuse("the shape of '", z.name, "' is not known to be that of '", y.name, "'");
  Site result = extended(site, {&node});
  result.z = z.name;
  return result;
}

Site with_constants(const Site& site, const Node& node, const Affine& affine, int64_t channels, const Graph& graph) {
  if (channels < 0) refuse("the number of output channels is not known");
  const auto any = [](const std::vector<double>& v, double not_this) {
    return std::any_of(v.begin(), v.end(), [&](double x) { return x != not_this; });
  };
  const bool scaled = any(affine.scale, 1), shifted = any(affine.shift, 0);
  if (scaled && !site.z.empty()) refuse("it scales a sum with a residual");
  if (scaled && !site.constant_w) refuse("its input W of the transposed convolution is not a constant");
  const auto m = static_cast<size_t>(channels);
  Site result = extended(site, {&node});
  const bool biased = site.bias || !site.b.empty();
  if (shifted || (scaled && biased)) {
    std::vector<double> bias(m, 0.0);
    if (site.bias) {
      bias = *site.bias;
    } else if (biased) {
      const auto tensor = graph.constant(graph.find(site.b));
      if (!tensor) refuse("its input B of the transposed convolution is not a constant");
      bias = to_double(*tensor);
      if (bias.size() != m) refuse("input B of the transposed convolution has shape ", tensor->shape);
    }
    for (size_t i = 0; i < m; ++i)
      bias[i] = biased ? at(affine.scale, i) * bias[i] + at(affine.shift, i) : at(affine.shift, i);
    check_range(bias, site.dtype, "bias");
    result.bias = std::move(bias);
    result.b.clear();
  }
  if (scaled) {
    const auto channel = [shape = site.w_shape, group = site.attributes.group](const std::vector<double>& w, size_t i) {
      const auto rows = static_cast<size_t>(shape[1]), inputs = static_cast<size_t>(shape[0] / group);
      const size_t taps = w.size() / (rows * static_cast<size_t>(shape[0]));
      return i / (taps * rows) / inputs * rows + i / taps % rows;
    };
    const auto unscaled = [before = site.reform](std::vector<double> w) { return before ? before(std::move(w)) : w; };
    check_scale(
        affine.scale,
        [&] {
          const auto tensor = graph.constant(graph.find(site.w));
          const auto w = tensor ? unscaled(to_double(*tensor)) : std::vector<double>();
          std::vector<double> largest(m, 0.0);
          for (size_t i = 0; i < w.size(); ++i) {
            double& most = largest[channel(w, i)];
            most = std::max(most, std::fabs(w[i]));
          }
          return largest;
        },
        site.dtype);
    result.reform = [unscaled, channel, scale = affine.scale](std::vector<double> w) {
      w = unscaled(std::move(w));
      for (size_t i = 0; i < w.size(); ++i) w[i] *= at(scale, channel(w, i));
      return w;
    };
    if (site.w_scales)
      result.w_scales = [before = site.w_scales, scale = affine.scale] {
        auto scales = before();
        for (size_t i = 0; i < scales.size(); ++i) scales[i] = static_cast<float>(scales[i] * at(scale, i));
        return scales;
      };
    if (site.dtype == DType::kFloat16) {
      const auto tensor = graph.constant(graph.find(site.w));
      if (tensor) check_range(result.reform(to_double(*tensor)), site.dtype, "weights");
    }
  }
  return result;
}

}  // namespace

std::optional<Site> epilogue(const Node& node, const Site& site, const Graph& graph) {
  if (node.outputs.empty() || !node.outputs[0] || !node.input(0)) return std::nullopt;
  const Value& value = *graph.find(site.output);
  const auto& attributes = site.attributes;
  const Dims w_shape = site.constant_w ? site.w_shape : graph.dims(*graph.find(site.w));
  if (w_shape.size() < 3) return std::nullopt;
  const size_t rank = w_shape.size();
  const int64_t channels = w_shape[1] < 0 ? -1 : checked_mul(w_shape[1], attributes.group, "output channels");

  const bool shared = value.readers.size() > 1;
  if (shared)
    if (const auto found = written_out_activation(value, rank, site.dtype, graph))
      return with_activation(site, found->activation, found->nodes);

  const bool arithmetic = is_arithmetic(node);
  if (arithmetic) {
    if (shared || value.graph_output) return std::nullopt;
    const Value* const other = node.input(node.input(0) == &value ? 1 : 0);
    if (!other) return std::nullopt;
    if (node.op == "Add") {
      const auto tensor = graph.constant(other);
      const bool image = tensor && tensor->shape == graph.dims(*node.outputs[0]);
      if (!tensor || (image && !per_channel(*tensor, channels, rank)))
        return with_residual(site, node, value, *other, graph);
    }
  }
  const bool normalization = node.own("BatchNormalization") && node.since >= 7;
  std::optional<Activation> activation;
  if (!arithmetic && !normalization) {
    if (node.input(0) != &value) return std::nullopt;
    activation = single_activation(node, channels, rank, graph);
    if (!activation) return std::nullopt;
  }
  if (value.graph_output) refuse("its input is an output of the graph");
  if (shared) refuse("its input has ", value.readers.size(), " readers");
  if (activation) return with_activation(site, *activation, {&node});
  const auto affine = read_affine(node, value, channels, rank, graph);
  if (!affine) return std::nullopt;
  return with_constants(site, node, *affine, channels, graph);
}

}  // namespace ort_tconv::provider
