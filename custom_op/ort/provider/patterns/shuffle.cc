#include "ort/provider/patterns/shuffle.h"

#include <algorithm>

#include "core/status.h"
#include "ort/provider/weights.h"

namespace ort_tconv::provider {
namespace {

constexpr size_t kMostNodes = 8;
// Open sizes are stood in for by primes that divide no size of a model: sizes are equal, or divide each other,
// for all values of the open ones if they do so for these.
constexpr int64_t kStandIns[] = {1000003, 1000033, 1000037, 1000039, 1000081, 1000099, 1000117, 1000121};
using Number = __int128;

// A part of an axis: all of an old one, or, of the channels, every `step`-th of them.
struct Digit {
  int axis;
  Number size;
  Number step = 1;
};
using Axis = std::vector<Digit>;  // outermost first; none for size 1
using Layout = std::vector<Axis>;

Number size_of(const Axis& axis) {
  Number n = 1;
  for (const Digit& digit : axis) n *= digit.size;
  return n;
}

// The digits in the same order, in axes of other sizes; channels are split where need be.
std::optional<Layout> regroup(const Layout& layout, const std::vector<Number>& target) {
  std::vector<Digit> digits;
  for (const Axis& axis : layout) digits.insert(digits.end(), axis.begin(), axis.end());
  std::reverse(digits.begin(), digits.end());  // the first is at the end
  Layout result;
  for (Number left : target) {
    Axis axis;
    while (left != 1) {
      if (digits.empty() || left < 1) return std::nullopt;
      Digit first = digits.back();
      digits.pop_back();
      if (left % first.size != 0) {  // take the outer part of the digit
        if (first.axis != 1 || first.size % left != 0) return std::nullopt;
        const Number inner = first.size / left;
        digits.push_back({first.axis, inner, first.step});
        first.size = left;
        first.step *= inner;
      }
      axis.push_back(first);
      left /= first.size;
    }
    result.push_back(std::move(axis));
  }
  if (!digits.empty()) return std::nullopt;
  return result;
}

std::optional<Layout> reshape(const Layout& layout, const Node& node, const Graph& graph) {
  const auto tensor = graph.constant(node.input(1));
  if (!tensor || graph.integer(node, "allowzero", 0)) return std::nullopt;
  Number all = 1, known = 1;
  for (const Axis& axis : layout) all *= size_of(axis);
  std::vector<Number> target;
  ptrdiff_t open = -1;
  for (double v : to_double(*tensor)) {
    const auto i = target.size();
    Number size = static_cast<Number>(v);
    if (size == 0) {
      if (i >= layout.size()) return std::nullopt;
      size = size_of(layout[i]);
    }
    if (size == -1) open = static_cast<ptrdiff_t>(i);
    else known *= size;
    target.push_back(size);
  }
  if (open >= 0) {
    if (known < 1 || all % known != 0) return std::nullopt;
    target[static_cast<size_t>(open)] = all / known;
  }
  return regroup(layout, target);
}

// Squeeze and Unsqueeze, whose axes are in an attribute or an input: the sizes of the result tell.
std::optional<Layout> squeeze(const Layout& layout, const Node& node, const Graph& graph) {
  Dims axes = graph.integers(node, "axes");
  if (const auto tensor = graph.constant(node.input(1)))
    for (double v : to_double(*tensor)) axes.push_back(static_cast<int64_t>(v));
  const bool remove = node.own("Squeeze");
  const auto rank = static_cast<int64_t>(layout.size()) + (remove ? 0 : static_cast<int64_t>(axes.size()));
  for (int64_t& axis : axes) {
    if (axis < 0) axis += rank;
    if (axis < 0 || axis >= rank) return std::nullopt;
  }
  const auto among = [&](int64_t axis) { return std::find(axes.begin(), axes.end(), axis) != axes.end(); };
  Layout result;
  if (remove) {
    for (int64_t i = 0; i < rank; ++i) {
      const Axis& axis = layout[static_cast<size_t>(i)];
      if (axes.empty() ? axis.empty() : among(i)) {
        if (!axis.empty()) return std::nullopt;
        continue;
      }
      result.push_back(axis);
    }
    return result;
  }
  if (axes.empty()) return std::nullopt;
  size_t next = 0;
  for (int64_t i = 0; i < rank; ++i) {
    if (!among(i) && next == layout.size()) return std::nullopt;
    result.push_back(among(i) ? Axis{} : layout[next++]);
  }
  return result;
}

std::optional<Layout> transpose(const Layout& layout, const Node& node, const Graph& graph) {
  const Dims perm = graph.integers(node, "perm");
  if (perm.size() != layout.size()) return std::nullopt;
  Layout result;
  for (int64_t axis : perm) {
    if (axis < 0 || axis >= static_cast<int64_t>(layout.size())) return std::nullopt;
    result.push_back(layout[static_cast<size_t>(axis)]);
  }
  return result;
}

std::optional<Layout> depth_to_space(const Layout& layout, const Node& node, const Graph& graph) {
  const Number b = graph.integer(node, "blocksize", 0);
  const std::string mode = graph.text(node, "mode", "DCR");
  if (layout.size() != 4 || b < 1 || (mode != "DCR" && mode != "CRD")) return std::nullopt;
  const Number channels = size_of(layout[1]);
  if (channels % (b * b) != 0) return std::nullopt;
  const Number rest = channels / (b * b);
  const bool crd = mode == "CRD";
  const auto split = regroup({layout[1]}, crd ? std::vector<Number>{rest, b, b} : std::vector<Number>{b, b, rest});
  if (!split) return std::nullopt;
  const Axis &m = (*split)[crd ? 0 : 2], &rows = (*split)[crd ? 1 : 0], &columns = (*split)[crd ? 2 : 1];
  Layout result{layout[0], m, layout[2], layout[3]};
  result[2].insert(result[2].end(), rows.begin(), rows.end());
  result[3].insert(result[3].end(), columns.begin(), columns.end());
  return result;
}

std::optional<Layout> moved(const Layout& layout, const Node& node, const Graph& graph) {
  if (node.own("DepthToSpace")) return depth_to_space(layout, node, graph);
  if (node.own("Reshape")) return reshape(layout, node, graph);
  if (node.own("Transpose")) return transpose(layout, node, graph);
  return squeeze(layout, node, graph);
}

bool is_step(const Node& node) {
  for (const char* op : {"DepthToSpace", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
    if (node.own(op)) return true;
  return false;
}

// The channels that are where, if these are pixels that some channels have gone to.
std::optional<ChannelIndex> dealt(const Layout& layout, const Dims& dims) {
  if (layout.size() != dims.size()) return std::nullopt;
  std::vector<Axis> parts;
  bool any = false;
  for (size_t axis = 0; axis < layout.size(); ++axis) {
    Axis digits = layout[axis];
    if (axis != 1 && dims[axis] != 1) {  // of size 1 there is no digit
      if (digits.empty() || digits[0].axis != static_cast<int>(axis)) return std::nullopt;
      digits.erase(digits.begin());
    }
    for (const Digit& digit : digits)
      if (digit.axis != 1 || axis == 0) return std::nullopt;
    any = any || (axis >= 2 && !digits.empty());
    parts.push_back(std::move(digits));
  }
  if (!any) return std::nullopt;
  parts.erase(parts.begin());  // the batch
  ChannelIndex index{{}, {0}};
  for (const Axis& digits : parts) {
    std::vector<int64_t> places{0};
    for (const Digit& digit : digits) {
      std::vector<int64_t> finer;
      for (int64_t place : places)
        for (int64_t i = 0; i < static_cast<int64_t>(digit.size); ++i)
          finer.push_back(place + i * static_cast<int64_t>(digit.step));
      places = std::move(finer);
    }
    std::vector<int64_t> channels;
    for (int64_t channel : index.channels)
      for (int64_t place : places) channels.push_back(channel + place);
    index.channels = std::move(channels);
    index.shape.push_back(static_cast<int64_t>(places.size()));
  }
  return index;
}

}  // namespace

std::optional<Shuffle> find_shuffle(const Value& begin, const Dims& dims, const Graph& graph) {
  Layout layout;
  size_t open = 0;
  for (size_t axis = 0; axis < dims.size(); ++axis) {
    if (dims[axis] == 0 || (dims[axis] < 0 && open == std::size(kStandIns))) return std::nullopt;
    const int64_t size = dims[axis] < 0 ? kStandIns[open++] : dims[axis];
    layout.push_back(size == 1 ? Axis{} : Axis{{static_cast<int>(axis), size}});
  }
  const Value* value = &begin;
  Shuffle result;
  while (result.nodes.size() < kMostNodes) {
    const Node* step = nullptr;
    for (const Node* reader : value->readers) {
      if (!is_step(*reader) || reader == step) continue;
      if (step) return std::nullopt;
      step = reader;
    }
    if (!step || step->input(0) != value || step->outputs.size() != 1 || !step->outputs[0]) return std::nullopt;
    const auto next = moved(layout, *step, graph);
    if (!next) return std::nullopt;
    layout = *next;
    value = step->outputs[0];
    result.nodes.push_back(step);
    if (auto index = dealt(layout, dims)) {
      result.index = std::move(*index);
      return result;
    }
  }
  return std::nullopt;
}

}  // namespace ort_tconv::provider
