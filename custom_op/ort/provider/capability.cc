#include "ort/provider/capability.h"

#include <algorithm>

#include "core/status.h"
#include "ort/provider/fused_node.h"
#include "ort/provider/patterns/patterns.h"

namespace ort_tconv::provider {
namespace {

constexpr struct {
  const char* name;
  std::optional<Site> (*find)(const Node&, const Graph&);
} kPatterns[] = {{"conv_transpose", conv_transpose}};

void check_selected(const Site& site, const Options& options) {
  for (const auto& pattern : options.exclude)
    if (matches(pattern, site.label)) refuse("excluded by '", pattern, "'");
  for (const Node* node : site.nodes)
    if (!node->assigned.empty()) refuse("node '", node->label(), "' is assigned to ", node->assigned);
}

}  // namespace

Capability find_sites(const Graph& graph, const Options& options) {
  Capability result;
  const std::string where = graph.parent() ? concat("subgraph ", graph.name()) : "graph";
  for (const auto& node : graph.nodes()) {
    if (node->assigned == kProviderName) continue;
    for (const auto& pattern : kPatterns) {
      Candidate candidate{node->label(), node->op, where, pattern.name, {}, {}};
      try {
        auto site = pattern.find(*node, graph);
        if (!site) continue;
        site->attributes.algorithm = options.algorithm;
        check_selected(*site, options);
        for (const Node* each : site->nodes) candidate.nodes.push_back(each->label());
        result.sites.push_back(std::move(*site));
        result.candidates.push_back(std::move(candidate));
        break;
      } catch (const Refusal& refusal) {
        candidate.reason = refusal.what();
      } catch (const Error& error) {  // of an attribute
        candidate.reason = error.what();
      }
      result.candidates.push_back(std::move(candidate));
    }
  }
  return result;
}

}  // namespace ort_tconv::provider
