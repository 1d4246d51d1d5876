// Constants per channel around a convolution: what is affine can go into weights and bias.
#pragma once

#include <optional>
#include <vector>

#include "ort/provider/site.h"

namespace ort_tconv::provider {

// scale_m y_m + shift_m, in float64; one value for each channel, or one for all.
struct Affine { std::vector<double> scale{1.0}, shift{0.0}; };

// Values of a constant that is broadcast along all axes but 1: one, or `channels`; nothing for another shape.
// `channels` is -1 if it is not known.
std::optional<std::vector<double>> per_channel(const Tensor& tensor, int64_t channels, size_t rank);

// What `node` does to `value` [N, channels, ...], of so many axes; nothing if it is not affine with constants.
// Throws Refusal if it looks so and its constants, or attributes, are not fit.
std::optional<Affine> read_affine(const Node& node, const Value& value, int64_t channels, size_t rank,
                                  const Graph& graph);

bool is_arithmetic(const Node& node);

// Entry m of what is one for each channel, or one for all.
inline double at(const std::vector<double>& v, size_t m) { return v[v.size() == 1 ? 0 : m]; }

}  // namespace ort_tconv::provider
