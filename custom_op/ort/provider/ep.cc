#include "ort/provider/ep.h"

#include <algorithm>
#include <cstdio>
#include <tuple>

#include "core/status.h"
#include "cpu/pages.h"
#include "ort/provider/patterns/patterns.h"

namespace ort_tconv::provider {

namespace {

// Whether ONNX Runtime gives fused nodes of different graphs different names, and tells which graph is in another.
// Until 1.24.4 it counted them anew in each graph, and refused the session at the second of a name.
bool knows_several_graphs(const std::string& version) {
  int major = 0, minor = 0, patch = 0;
  std::sscanf(version.c_str(), "%d.%d.%d", &major, &minor, &patch);
  return std::tie(major, minor, patch) >= std::make_tuple(1, 24, 4);
}

constexpr const char* kOneGraph =
    "ONNX Runtime before 1.24.4 takes fused nodes in one graph of a model only, and another one came first";

// One that ONNX Runtime does not replace by a function's nodes later.
const Node* any_node(const Graph& graph) {
  for (const auto& node : graph.nodes())
    if (node->assigned.empty() && !node->has_subgraphs && (node->domain.empty() || node->domain == "com.microsoft"))
      return node.get();
  return nullptr;
}

}  // namespace

Ep::Ep(const OrtApi& api, const std::string& ort_version, const OrtSessionOptions* options, const OrtLogger& logger)
    : OrtEp{}, api_(api), ep_api_(*api.GetEpApi()), logger_(logger), options_(Options::read(api, options)),
      several_graphs_(knows_several_graphs(ort_version)) {
  ort_version_supported = kProviderApi;
  GetName = get_name;
  GetCapability = get_capability;
  Compile = compile;
  ReleaseNodeComputeInfos = release_infos;
  SetDynamicOptions = set_options;
  OnRunStart = on_run_start;
}

void Ep::log(OrtLoggingLevel level, const std::string& message) const noexcept {
  OrtStatus* const status = api_.Logger_LogMessage(&logger_, level, message.c_str(), __FILE__, __LINE__, kProviderName);
  if (status) api_.ReleaseStatus(status);
}

// ONNX Runtime only logs an error in here, and runs everything on the CPU.
OrtStatus* Ep::get_capability(OrtEp* self, const OrtGraph* graph, OrtEpGraphSupportInfo* info) noexcept {
  auto& ep = *static_cast<Ep*>(self);
  return guarded(
      ep.api_, "",
      [&] {
        try {
          ep.claim(graph, info);
        } catch (const std::exception& error) {
          ep.report_.failed(error.what());
          ep.claimed_.clear();  // ONNX Runtime takes nothing of the graph
          throw;
        }
      },
      kProviderName);
}

// Nested graphs come before those around them.
void Ep::claim(const OrtGraph* ort_graph, OrtEpGraphSupportInfo* info) {
  claimed_.clear();
  const Graph graph(api_, ort_graph);
  const bool second = compiled_ && !several_graphs_;
  Capability found = find_sites(graph, options_, second ? kOneGraph : "");
  // Where a model has one graph to give, plain Convs alone are no reason to take this one: they are in many bodies.
  const auto is_plain = [](const Site& site) { return site.pattern == kUnitStrideConv; };
  if (!several_graphs_ && std::all_of(found.sites.begin(), found.sites.end(), is_plain)) found.sites.clear();
  for (const Left& left : found.left)
    log(ORT_LOGGING_LEVEL_INFO,
        concat(left.op, " '", left.node, "' is left alone (", left.pattern, "): ", left.reason));
  report_.looked(graph, found);
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
  if (options_.strict && !claimed_any_ && several_graphs_ && !graph.parent()) {
    // What goes wrong in Compile ends the session, so there has to be something to compile.  Where this could as
    // well be a subgraph, the first run tells.
    if (const Node* const node = any_node(graph))
      check(api_, ep_api_.EpGraphSupportInfo_AddNodesToFuse(info, &node->node, 1, nullptr));
  }
  if (!options_.report.empty()) report_.write(options_.report);
}

std::string Ep::complaint() const {
  const std::string reasons = report_.reasons();
  return concat("option strict is set, and the provider takes no node of the model",
                reasons.empty() ? ": it has none of the operators that concern it" : reasons);
}

OrtStatus* Ep::compile(OrtEp* self, const OrtGraph** graphs, const OrtNode** fused_nodes, size_t count,
                       OrtNodeComputeInfo** infos, OrtNode**) noexcept {
  auto& ep = *static_cast<Ep*>(self);
  std::fill_n(infos, count, nullptr);
  // A model file that was read has left as much free memory as it is long; packed weights do not go there.
  if (count > 0) return_free_memory();
  for (size_t i = 0; i < count; ++i) {
    OrtStatus* const status =
        guarded(ep.api_, "", [&] { infos[i] = ep.compile(graphs[i], fused_nodes[i]); }, kProviderName);
    if (status) return status;  // what has been made is released with the session
  }
  if (ep.options_.report.empty()) return nullptr;
  return guarded(ep.api_, "", [&] { ep.report_.write(ep.options_.report); }, kProviderName);
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
  require(claimed_any_, complaint());
  require(site != claimed_.end(), "the fused node that makes '", name, "' was not claimed");
  try {
    auto made = FusedNode::make(api_, *site, Graph(api_, ort_graph), inputs);
    const char* kernel = "";
    check(api_, api_.Node_GetName(fused_node, &kernel));
    report_.compiled(*site, kernel);
    compiled_ = true;
    return made.release();
  } catch (const Error& error) {
    fail("node '", site->label, "': ", error.what());
  }
}

// `ep.tconvexecutionprovider.report` writes the report to a file.
OrtStatus* Ep::set_options(OrtEp* self, const char* const* keys, const char* const* values, size_t count) noexcept {
  auto& ep = *static_cast<Ep*>(self);
  return guarded(
      ep.api_, "",
      [&] {
        for (size_t i = 0; i < count; ++i)
          if (keys[i] == concat(kOptionPrefix, "report")) ep.report_.write(values[i]);
      },
      kProviderName);
}

// With the option strict: an error that Compile could not tell.
OrtStatus* Ep::on_run_start(OrtEp* self, const OrtRunOptions*) noexcept {
  auto& ep = *static_cast<Ep*>(self);
  return guarded(ep.api_, "", [&] { require(!ep.options_.strict || ep.compiled_, ep.complaint()); }, kProviderName);
}

void Ep::release_infos(OrtEp*, OrtNodeComputeInfo** infos, size_t count) noexcept {
  for (size_t i = 0; i < count; ++i) delete static_cast<FusedNode*>(infos[i]);
}

}  // namespace ort_tconv::provider
