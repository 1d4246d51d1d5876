#include "ort/provider/blocked_layout.h"

#include <algorithm>
#include <initializer_list>
#include <string_view>

#include "core/gain.h"
#include "cpu/arch.h"
#include "ort/provider/patterns/resize.h"

namespace ort_tconv::provider {
namespace {

constexpr int kMostPassed = 64;  // nodes without a layout of their own that one value is followed through

bool own(const Node& node, std::initializer_list<std::string_view> types) {
  return std::any_of(types.begin(), types.end(), [&](std::string_view type) { return node.own(type); });
}
bool is_pool(const Node& node) { return own(node, {"MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"}); }
bool is_elementwise(const Node& node) { return own(node, {"Add", "Sum", "Mul"}); }
// Where these find the layout, they keep it.
bool passes_on(const Node& node) { return own(node, {"Relu", "Sigmoid", "Tanh"}); }
// Only as a part of the Conv before them.
bool fuses(const Node& node) { return own(node, {"LeakyRelu", "Clip", "HardSigmoid"}); }
bool is_followed(const Node& node) {
  return own(node, {"BatchNormalization", "Concat", "Resize", "Upsample"}) || is_elementwise(node) || passes_on(node) ||
         fuses(node);
}

int64_t block_size() {
  const auto isas = supported_isas();
  const auto has = [&](const char* isa) { return std::find(isas.begin(), isas.end(), isa) != isas.end(); };
  return has("avx512") || has("neon") ? 16 : 8;
}

double nominal_elements(const Value& value, const Graph& graph) {
  const Dims dims = graph.dims(value);
  const int64_t side = nominal_side(std::max(1, static_cast<int>(dims.size()) - 2));
  double elements = 1;
  for (size_t axis = 0; axis < dims.size(); ++axis)
    elements *= static_cast<double>(dims[axis] >= 0 ? dims[axis] : axis == 0 ? 1 : side);
  return elements;
}

// Whether all have one shape; sizes and ranks of which nothing is known count as equal.
bool equal_shapes(const std::vector<Value*>& values, const Graph& graph) {
  const auto sizes = [&](const Value* value) { return value ? graph.sizes(*value) : std::nullopt; };
  const auto is_equal = [](const Size& a, const Size& b) { return a.number == b.number && a.symbol == b.symbol; };
  return std::all_of(values.begin(), values.end(), [&](const Value* value) {
    const auto a = sizes(value), b = sizes(values[0]);
    if (!a || !b) return !a && !b;
    return std::equal(a->begin(), a->end(), b->begin(), b->end(), is_equal);
  });
}

}  // namespace

BlockedLayout::BlockedLayout(const Graph& graph, const std::vector<const Node*>& replaced,
                             const std::vector<const Value*>& reads)
    : graph_(graph), replaced_(replaced.begin(), replaced.end()), reads_(reads.begin(), reads.end()),
      block_(block_size()) {}

// ---- layouts ----------------------------------------------------------------------------------

bool BlockedLayout::is_blocked(const Value* value, int depth) const {
  if (!value || !value->producer || depth > kMostPassed) return false;
  const auto found = known_.find(value);
  if (found != known_.end()) return found->second;
  const bool blocked = computes_blocked(*value->producer, depth);
  known_[value] = blocked;
  return blocked;
}

bool BlockedLayout::computes_blocked(const Node& node, int depth) const {
  if (is_operator(node) || !node.domain.empty()) return false;
  if (node.own("Conv")) return is_blocked_conv(node);
  if (is_pool(node)) return is_blocked_pool(node);
  const auto all = [&](auto holds) { return std::all_of(node.inputs.begin(), node.inputs.end(), holds); };
  if (passes_on(node) || is_fused(node)) return is_blocked(node.input(0), depth + 1);
  if (own(node, {"Resize", "Upsample"})) return enlarges_in_place(node) && is_blocked(node.input(0), depth + 1);
  if (node.own("Concat") && graph_.integer(node, "axis", 0) == 1)
    return all([&](const Value* v) { return whole_blocks(v) && is_blocked(v, depth + 1); });
  if (is_elementwise(node))
    return equal_shapes(node.inputs, graph_) && all([&](const Value* v) { return is_blocked(v, depth + 1); });
  return false;
}

bool BlockedLayout::is_blocked_conv(const Node& node) const {
  const auto w = graph_.constant(node.input(1));
  if (!w || w->type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || w->shape.size() != 4) return false;
  if (node.input(2) && !graph_.is_constant(node.input(2))) return false;
  const int64_t m = w->shape[0], c = w->shape[1], group = graph_.integer(node, "group", 1);
  if (group < 1) return false;
  if (group == 1) return c < block_ || c % 4 == 0;  // the last block is filled up with zeros
  if (c == 1 && m == group) return m % 4 == 0;      // depthwise
  return c % block_ == 0 && m % group == 0 && m / group % block_ == 0;
}

bool BlockedLayout::is_blocked_pool(const Node& node) const {
  const Value* const x = node.input(0);
  return x && graph_.type(*x) == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT && node.outputs.size() == 1 &&
         graph_.dims(*x).size() == 4 && whole_blocks(x);
}

bool BlockedLayout::whole_blocks(const Value* value) const {
  const Dims dims = value ? graph_.dims(*value) : Dims{};
  return dims.size() >= 2 && dims[1] >= 0 && dims[1] % block_ == 0;
}

// Whether the node becomes part of the Conv before it: constants per channel, and then an activation.
bool BlockedLayout::is_fused(const Node& node) const {
  const Value* source = node.input(0);
  if (own(node, {"Add", "Mul"})) {
    const auto is_constant = [&](const Value* v) { return graph_.is_constant(v); };
    if (std::count_if(node.inputs.begin(), node.inputs.end(), is_constant) != 1 || node.inputs.size() != 2)
      return false;
    source = node.inputs[is_constant(node.inputs[0]) ? 1 : 0];
  } else if (!node.own("BatchNormalization") && !fuses(node)) {
    return false;
  }
  const Node* const before = source ? source->producer : nullptr;
  if (!before || is_operator(*before) || !own(*before, {"Conv", "Add", "Mul", "BatchNormalization"})) return false;
  return source->only_reader() == &node && (before->own("Conv") || is_fused(*before));
}

// Whether the layout has an upsampling like this: by integers, nearest or linear.
bool BlockedLayout::enlarges_in_place(const Node& node) const {
  std::vector<double> ratios;
  try {
    if (node.input(0)) ratios = enlargement(node, graph_);
  } catch (const Refusal&) {
    return false;
  }
  const auto is_whole = [](double ratio) { return ratio == static_cast<double>(static_cast<int64_t>(ratio)); };
  if (ratios.size() != 4 || ratios[0] != 1 || ratios[1] != 1 || !std::all_of(ratios.begin(), ratios.end(), is_whole))
    return false;
  const std::string mode = graph_.text(node, "mode", "nearest");
  if (node.own("Upsample") || node.since == 10) return mode == "nearest";
  const std::string coordinates = graph_.text(node, "coordinate_transformation_mode", "half_pixel");
  if (mode == "linear")
    return coordinates == "asymmetric" || coordinates == "align_corners" || coordinates == "half_pixel";
  return mode == "nearest" && coordinates == "asymmetric" &&
         graph_.text(node, "nearest_mode", "round_prefer_floor") == "floor";
}

// ---- copies -----------------------------------------------------------------------------------

// Whether the value is needed in both layouts.
bool BlockedLayout::copied(const Value& value) const {
  const bool blocked = is_blocked(&value);
  if (blocked && (value.graph_output || reads_.count(&value))) return true;
  return std::any_of(value.readers.begin(), value.readers.end(), [&](const Node* user) {
    return !replaced_.count(user) && (blocked ? !takes_blocked(*user, value) : wants_blocked(*user, value));
  });
}

bool BlockedLayout::takes_blocked(const Node& node, const Value& value) const {
  if (wants_blocked(node, value)) return true;
  if (node.own("Conv") || is_pool(node)) return false;
  return node.own("Shape") || (!node.outputs.empty() && is_blocked(node.outputs[0]));
}

// Whether the node has the value copied into the layout if it is not there.
bool BlockedLayout::wants_blocked(const Node& node, const Value& value) const {
  if (is_operator(node) || node.input(0) != &value) return false;
  if (is_pool(node)) return is_blocked_pool(node);
  if (!node.own("Conv") || !is_blocked_conv(node)) return false;
  return graph_.integer(node, "group", 1) > 1 || graph_.constant(node.input(1))->shape[1] >= block_;
}

double BlockedLayout::cost(const std::vector<const Value*>& values) const {
  double cost = 0;
  for (const Value* value : values)
    if (copied(*value)) cost += relayout_cost(nominal_elements(*value, graph_));
  return cost;
}

std::vector<const Value*> around(const std::vector<const Node*>& nodes, const std::vector<const Value*>& reads) {
  std::vector<const Value*> found, waiting;
  std::set<const Value*> added, followed;
  const auto add = [&](const Value* value) {
    if (value && added.insert(value).second) found.push_back(value);
  };
  for (const Value* value : reads) add(value);
  for (const Node* node : nodes) {
    for (const Value* value : node->inputs) add(value);
    waiting.insert(waiting.end(), node->outputs.begin(), node->outputs.end());
  }
  while (!waiting.empty() && followed.size() < kMostPassed) {
    const Value* const value = waiting.back();
    waiting.pop_back();
    if (!value || !followed.insert(value).second) continue;
    add(value);
    for (const Node* user : value->readers) {
      if (user->taken || !is_followed(*user) || std::find(nodes.begin(), nodes.end(), user) != nodes.end()) continue;
      for (const Value* beside : user->inputs) add(beside);
      waiting.insert(waiting.end(), user->outputs.begin(), user->outputs.end());
    }
  }
  return found;
}

}  // namespace ort_tconv::provider
