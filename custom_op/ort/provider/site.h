// A place in a graph that the provider can take over: the nodes, and the one transposed convolution that equals
// them.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/plan.h"
#include "ort/provider/graph.h"
#include "ort/quantized_node.h"

namespace ort_tconv::provider {

// Thrown by a pattern that leaves a node alone; the message says why.
class Refusal : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

template <class... Parts> [[noreturn]] void refuse(const Parts&... parts) { throw Refusal(concat(parts...)); }

// A tensor that the operator reads: a value of the graph, or a constant that the graph does not have.
struct Operand {
  std::string name;
  Dims shape;
  std::shared_ptr<const void> data;
};

// What a site on 8-bit tensors has in place of x, w, b and z.
struct QuantizedSite {
  QuantizedTypes types;
  bool float_bias = false;
  std::array<Operand, QuantizedNode::kInputs> operands;
};

// Names are those of values; "" where there is none.
struct Site {
  std::string pattern;
  std::string label;               // of the node by which users select it
  std::vector<const Node*> nodes;  // the last one gives the result; valid as long as the graph
  std::string output;

  DType dtype = DType::kFloat32;
  Attributes attributes;
  std::string x, w, b, z;
  Dims x_declared;  // -1 for an open size, empty for an unknown rank
  bool constant_w = false;
  // For constant weights: the shape [C, M/group, k1, ..., kd] of the operator's, and how to get them, in float64
  // both, from those in the graph; null if they are the same.
  Dims w_shape;
  std::function<std::vector<double>(std::vector<double>)> reform;
  std::optional<std::vector<double>> bias;  // computed, in place of b
  // Of constant weights that the graph holds as integers: the scales, one for each output channel, that these are to
  // be multiplied by; throws Refusal if int8 does not hold them so.  Null for others.
  std::function<std::vector<double>()> w_scales;

  std::optional<QuantizedSite> quantized;

  // What x is extended by before the operator reads it: copies of its edge, or channels of ones.
  struct Margin {
    Dims begins, ends;  // one entry an axis
    bool edge = false;
    bool any() const;
  };
  Margin margin;
};

}  // namespace ort_tconv::provider
