// What the patterns that start from a Conv share: reading it, and writing the transposed convolution.
#pragma once

#include <functional>
#include <vector>

#include "ort/provider/options.h"
#include "ort/provider/site.h"

namespace ort_tconv::provider {

// A Conv with stride 1 and constant weights [M, C/group, k1, ..., kd].
struct Convolution {
  const Node* node = nullptr;
  DType dtype = DType::kFloat32;
  Dims shape;  // of the weights
  int64_t group = 1;
  Dims dilations, begins, ends;    // pads
  std::vector<double> scale{1.0};  // one for each of the M output channels, or one for all, that follows it

  int axes() const { return static_cast<int>(dilations.size()); }
  int64_t channels() const { return shape[1] * group; }
  // Distance of the last tap from the first, (k - 1) * dilation, along each axis.
  Dims reach() const;
  // The weights of the graph, in float64, with the scale.
  std::vector<double> weights(std::vector<double> w) const;
};

// Throws Refusal for what the patterns cannot treat.
Convolution read_convolution(const Node& node, const Graph& graph);

// A transposed convolution that equals a convolution and what surrounds it.
struct Equivalent {
  Dims w_shape, strides, begins, ends;
  int64_t group = 1;
  Dims dilations = {}, output_padding = {};  // empty: ones, zeros
};

// What the transposed convolution of stride 1 crops; throws Refusal if that is negative.
struct Pads { Dims begins, ends; };
Pads transposed_pads(const Convolution& conv);

// Throws Refusal if anything but the next of a chain of nodes reads what one of them makes.
void check_unread(const std::vector<const Node*>& chain);

// What else the plan's cost is weighed against: values, for each pixel of the operator's input, that the nodes
// around the Conv move to and from memory without the rewrite, in order or not, and with it.
struct Moved { int64_t saved = 0, shuffled = 0, added = 0; };

// Throws Refusal if the plan of `form` for `x`, as the user wants it, costs more than the estimate for the nodes it
// replaces, `gone`, of which the last one gives the result; or more than the share `sure` of it.  The Conv counts as
// the operator's own engines but Winograd would run it, on an image `growth` times as large; where `sure` is below 1,
// with no more than it cannot do without (core/gain.h).  To this come the values that `moved` counts, and what is
// copied between ONNX Runtime's blocked layout and the plain one.
void check_gain(const Convolution& conv, const Equivalent& form, const Dims& growth, const Moved& moved, const Value& x,
                const std::vector<const Node*>& gone, const Graph& graph, const Options& options, double sure = 1);

// The site of `form`, without nodes, output, weights and bias.
Site make_site(const Convolution& conv, const Equivalent& form, const Value& x, const char* pattern,
               const Graph& graph);

// A dense array in row-major order, and its elements' places.
struct Array {
  Dims shape;
  std::vector<double> values;
};
// [M, C/group, ...] -> [C, M/group, ...], the order of a transposed convolution.
Array swap_channels(const Array& w, int64_t group);
// The weights of the transposed convolution of stride 1: swapped channels, and on each axis the last tap first.
std::function<std::vector<double>(std::vector<double>)> flip(const Convolution& conv);

}  // namespace ort_tconv::provider
