#include "ort/provider/capability.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <unordered_map>
#include <utility>

#include "core/status.h"
#include "ort/provider/fused_node.h"
#include "ort/provider/patterns/patterns.h"

namespace ort_tconv::provider {
namespace {

// Of two that begin at one node, the first wins.
struct Pattern {
  const char* name;
  std::optional<Site> (*find)(const Node&, const Graph&, const Options&);
};
constexpr Pattern kPatterns[] = {{"upsample_conv", upsample_conv},         {"subpixel_conv", subpixel_conv},
                                 {"zero_insertion", zero_insertion},       {"quantized", quantized},
                                 {"quantized_weights", quantized_weights}, {"conv_transpose", conv_transpose},
                                 {kUnitStrideConv, unit_stride_conv}};

class Search {
 public:
  Search(const Graph& graph, const Options& options, const std::string& obstacle)
      : graph_(graph), options_(options), obstacle_(obstacle) {}

  Capability run() && {
    // As the converter's passes: what one took, the next ones see as the operator.
    for (const auto& pattern : kPatterns)
      for (const auto& node : graph_.nodes()) begin(*node, pattern);
    for (const auto& node : graph_.nodes()) extend(*node);
    std::map<const Node*, size_t> places;
    for (const auto& node : graph_.nodes()) places.emplace(node.get(), places.size());
    std::stable_sort(result_.sites.begin(), result_.sites.end(), [&](const Site& a, const Site& b) {
      return places.at(a.nodes.back()) < places.at(b.nodes.back());
    });
    for (Site& site : result_.sites) keep_weights(site);
    return std::move(result_);
  }

 private:
  // Runs `find`, which returns a site or nothing or refuses, and records a refusal.
  template <class Find> std::optional<Site> attempt(const Node& node, const char* pattern, Find find) {
    std::string reason;
    try {
      auto site = find();
      if (site) check(*site, node);
      return site;
    } catch (const Refusal& refusal) {
      reason = refusal.what();
    } catch (const Error& error) {  // of an attribute
      reason = error.what();
    }
    auto& left = result_.left;  // one entry for what forbids a node in whatever pattern
    const auto is_same = [&](const Left& each) { return each.node == node.label() && each.reason == reason; };
    if (std::none_of(left.begin(), left.end(), is_same)) left.push_back({node.label(), node.op, pattern, reason});
    return std::nullopt;
  }

  void check(const Site& site, const Node& node) const {
    if (!obstacle_.empty()) refuse(obstacle_);
    for (const auto& pattern : options_.exclude)
      if (matches(pattern, site.label) || matches(pattern, node.label())) refuse("excluded by '", pattern, "'");
    const Value* const result = graph_.find(site.output);
    if (result && result->readers.empty() && !result->graph_output) refuse("nothing reads its result");
    for (const Node* each : site.nodes)
      if (!each->assigned.empty()) refuse("node '", each->label(), "' is assigned to ", each->assigned);
  }

  void begin(const Node& node, const Pattern& pattern) {
    if (node.taken || node.assigned == kProviderName) return;
    auto site = attempt(node, pattern.name, [&] { return pattern.find(node, graph_, options_); });
    if (!site) return;
    site->attributes.algorithm = options_.algorithm;
    take(*site);
    if (!site->quantized) by_output_[site->output] = result_.sites.size();
    result_.sites.push_back(std::move(*site));
  }

  static void take(const Site& site) {
    for (const Node* node : site.nodes) node->taken = true;
  }

  // The site whose result `node` reads; of two, rather one whose result nothing else reads.
  std::optional<size_t> before(const Node& node) const {
    std::optional<size_t> found;
    for (const Value* value : node.inputs) {
      const auto it = value ? by_output_.find(value->name) : by_output_.end();
      if (it == by_output_.end() || !result_.sites[it->second].attributes.activation.empty()) continue;
      if (value->only_reader()) return it->second;
      if (!found) found = it->second;
    }
    return found;
  }

  void extend(const Node& node) {
    if (node.taken) return;
    const auto index = before(node);
    if (!index) return;
    Site& site = result_.sites[*index];
    auto longer = attempt(node, "epilogue", [&] { return epilogue(node, site, graph_); });
    if (!longer) return;
    by_output_.erase(site.output);
    by_output_[longer->output] = *index;
    take(*longer);
    site = std::move(*longer);
  }

  void keep_weights(Site& site) const {
    if (site.quantized || !site.constant_w || site.dtype != DType::kFloat32) return;
    site.attributes.weights = options_.weights;
    const auto scales = std::exchange(site.w_scales, nullptr);
    if (!scales || parse_weights(options_.weights, "option") != WeightStorage::kInt8) return;
    try {
      for (double scale : scales()) {
        if (!std::isfinite(scale)) refuse("not all of their scales are finite");
        site.attributes.weight_scales.push_back(static_cast<float>(scale));
      }
    } catch (const Refusal&) {  // they stay float32
      site.attributes.weights.clear();
      site.attributes.weight_scales.clear();
    }
  }

  const Graph& graph_;
  const Options& options_;
  const std::string& obstacle_;
  Capability result_;
  std::unordered_map<std::string, size_t> by_output_;
};

}  // namespace

Capability find_sites(const Graph& graph, const Options& options, const std::string& obstacle) {
  return Search(graph, options, obstacle).run();
}

}  // namespace ort_tconv::provider
