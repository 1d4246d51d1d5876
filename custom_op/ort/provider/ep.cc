#include "ort/provider/ep.h"

#include <algorithm>

#include "core/status.h"

namespace ort_tconv::provider {

namespace {

// One that ONNX Runtime does not replace by a function's nodes later.
const Node* any_node(const Graph& graph) {
  for (const auto& node : graph.nodes())
    if (node->assigned.empty() && !node->has_subgraphs && (node->domain.empty() || node->domain == "com.microsoft"))
      return node.get();
  return nullptr;
}

std::string complaint(const Capability& found) {
  std::string text = "option strict is set, and the provider takes no node of the model";
  if (found.candidates.empty()) return text + ": it has none of the operators that concern it";
  for (const Candidate& candidate : found.candidates)
    text += concat("\n  ", candidate.op, " '", candidate.node, "': ", candidate.reason);
  return text;
}

}  // namespace

Ep::Ep(const OrtApi& api, const OrtSessionOptions* options, const OrtLogger& logger)
    : OrtEp{}, api_(api), ep_api_(*api.GetEpApi()), logger_(logger), options_(Options::read(api, options)) {
  ort_version_supported = kProviderApi;
  GetName = get_name;
  GetCapability = get_capability;
  Compile = compile;
  ReleaseNodeComputeInfos = release_infos;
}

void Ep::log(OrtLoggingLevel level, const std::string& message) const noexcept {
  OrtStatus* const status = api_.Logger_LogMessage(&logger_, level, message.c_str(), __FILE__, __LINE__, kProviderName);
  if (status) api_.ReleaseStatus(status);
}

OrtStatus* Ep::get_capability(OrtEp* self, const OrtGraph* graph, OrtEpGraphSupportInfo* info) noexcept {
  auto& ep = *static_cast<Ep*>(self);
  return guarded(ep.api_, "", [&] { ep.claim(graph, info); }, kProviderName);
}

// Nested graphs come before those around them.
void Ep::claim(const OrtGraph* ort_graph, OrtEpGraphSupportInfo* info) {
  claimed_.clear();
  const Graph graph(api_, ort_graph);
  Capability found = find_sites(graph, options_);
  for (const Candidate& candidate : found.candidates)
    if (!candidate.reason.empty())
      log(ORT_LOGGING_LEVEL_INFO,
          concat(candidate.op, " '", candidate.node, "' is left alone (", candidate.pattern, "): ", candidate.reason));
  OrtNodeFusionOptions fusion{};
  fusion.ort_version_supported = kProviderApi;
  fusion.drop_constant_initializers = true;
  for (const Site& site : found.sites) {
    std::vector<const OrtNode*> nodes;
    for (const Node* node : site.nodes) nodes.push_back(node->node);
    check(api_, ep_api_.EpGraphSupportInfo_AddNodesToFuse(info, nodes.data(), nodes.size(), &fusion));
  }
  claimed_ = std::move(found.sites);
  claimed_any_ = claimed_any_ || !claimed_.empty();
  if (options_.strict && !claimed_any_ && !graph.parent()) {
    const Node* const node = any_node(graph);
    if (!node) return;
    // ONNX Runtime only logs what goes wrong here, but what goes wrong in Compile ends the session.
    check(api_, ep_api_.EpGraphSupportInfo_AddNodesToFuse(info, &node->node, 1, nullptr));
    complaint_ = complaint(found);
  }
}

OrtStatus* Ep::compile(OrtEp* self, const OrtGraph** graphs, const OrtNode** fused_nodes, size_t count,
                       OrtNodeComputeInfo** infos, OrtNode**) noexcept {
  auto& ep = *static_cast<Ep*>(self);
  std::fill_n(infos, count, nullptr);
  for (size_t i = 0; i < count; ++i) {
    OrtStatus* const status =
        guarded(ep.api_, "", [&] { infos[i] = ep.compile(graphs[i], fused_nodes[i]); }, kProviderName);
    if (status) return status;  // what has been made is released with the session
  }
  return nullptr;
}

FusedNode* Ep::compile(const OrtGraph* ort_graph, const OrtNode* fused_node) {
  size_t count = 0;
  check(api_, api_.Node_GetNumInputs(fused_node, &count));
  std::vector<const OrtValueInfo*> infos(count);
  if (count > 0) check(api_, api_.Node_GetInputs(fused_node, infos.data(), count));
  const auto name_of = [&](const OrtValueInfo* info) {
    const char* text = "";
    if (info) check(api_, api_.GetValueInfoName(info, &text));
    return std::string(text);
  };
  std::vector<std::string> inputs;
  for (const OrtValueInfo* info : infos) inputs.push_back(name_of(info));

  check(api_, api_.Node_GetNumOutputs(fused_node, &count));
  require(count == 1, "the fused node has ", count, " outputs: must have one");
  const OrtValueInfo* output = nullptr;
  check(api_, api_.Node_GetOutputs(fused_node, &output, 1));
  const std::string name = name_of(output);
  const auto site =
      std::find_if(claimed_.begin(), claimed_.end(), [&](const Site& each) { return each.output == name; });
  require(site != claimed_.end() || complaint_.empty(), complaint_);
  require(site != claimed_.end(), "the fused node that makes '", name, "' was not claimed");
  try {
    return new FusedNode(api_, *site, Graph(api_, ort_graph), inputs);
  } catch (const Error& error) {
    fail("node '", site->label, "': ", error.what());
  }
}

void Ep::release_infos(OrtEp*, OrtNodeComputeInfo** infos, size_t count) noexcept {
  for (size_t i = 0; i < count; ++i) delete static_cast<FusedNode*>(infos[i]);
}

}  // namespace ort_tconv::provider
