#include "ort/provider/patterns/padding.h"

#include <algorithm>

#include "core/status.h"
#include "ort/provider/weights.h"

namespace ort_tconv::provider {
namespace {

bool some(const Dims& v) {
  return std::any_of(v.begin(), v.end(), [](int64_t n) { return n != 0; });
}

}  // namespace

bool Padding::any() const { return some(begins) || some(ends); }

Padding pad_amounts(const Node& node, size_t rank, const Graph& graph) {
  const Dims known{2, 11, 13, 18, 19, 21, 23, 24, 25};
  if (std::find(known.begin(), known.end(), node.since) == known.end())
    refuse("version ", node.since, " of Pad is newer than this provider knows (", known.back(), ")");
  Padding result{graph.text(node, "mode", "constant"), Dims(rank, 0), Dims(rank, 0)};
  if (result.mode != "constant" && result.mode != "edge" && result.mode != "reflect")
    refuse("Pad's mode '", result.mode, "' is not constant, edge or reflect");
  Dims amounts = graph.integers(node, "pads");
  double value = graph.number(node, "value", 0.f);
  if (node.inputs.size() > 1) {
    const auto tensor = graph.constant(node.input(1));
    if (!tensor) refuse("what Pad adds is not known before it runs");
    amounts.clear();
    for (double v : to_double(*tensor)) amounts.push_back(static_cast<int64_t>(v));
    if (node.input(2)) {
      const auto constant = graph.constant(node.input(2));
      if (!constant || element_count(constant->shape, "size") < 1) refuse("Pad adds an unknown value, not zeros");
      value = to_double(*constant)[0];
    }
  }
  if (result.mode == "constant" && value != 0) refuse("Pad adds ", value, ", not zeros");
  for (int64_t amount : amounts)
    if (amount < 0) refuse("Pad's pads ", amounts, " remove values");
  const size_t count = amounts.size() / 2;
  Dims axes;
  if (node.input(3)) {
    const auto tensor = graph.constant(node.input(3));
    if (!tensor || element_count(tensor->shape, "size") != static_cast<int64_t>(count))
      refuse("the axes that Pad extends are not known before it runs");
    for (double v : to_double(*tensor)) axes.push_back(static_cast<int64_t>(v));
  } else {
    if (count != rank) refuse("Pad's pads ", amounts, " do not fit an input of rank ", rank);
    for (size_t i = 0; i < rank; ++i) axes.push_back(static_cast<int64_t>(i));
  }
  for (size_t i = 0; i < count; ++i) {
    const auto axis = static_cast<size_t>(axes[i] < 0 ? axes[i] + static_cast<int64_t>(rank) : axes[i]);
    if (axis >= rank) refuse("Pad extends axis ", axes[i], " of an input of rank ", rank);
    result.begins[axis] = amounts[i];
    result.ends[axis] = amounts[count + i];
  }
  return result;
}

Padding read_padding(const Node& node, size_t axes, const Graph& graph) {
  Padding result = pad_amounts(node, axes + 2, graph);
  for (Dims* side : {&result.begins, &result.ends}) {
    if ((*side)[0] || (*side)[1]) refuse("Pad extends other than the spatial axes");
    side->erase(side->begin(), side->begin() + 2);
  }
  return result;
}

}  // namespace ort_tconv::provider
