// The execution provider of one session: tells ONNX Runtime which nodes it takes, and compiles them.
#pragma once

#include <string>
#include <vector>

#include "ort/provider/capability.h"
#include "ort/provider/fused_node.h"
#include "ort/provider/options.h"
#include "ort/provider/report.h"

namespace ort_tconv::provider {

class Ep final : public OrtEp {
 public:
  // Throws Error.
  Ep(const OrtApi& api, const std::string& ort_version, const OrtSessionOptions* options, const OrtLogger& logger);

 private:
  static const char* ORT_API_CALL get_name(const OrtEp*) noexcept { return kProviderName; }
  static OrtStatus* ORT_API_CALL get_capability(OrtEp* self, const OrtGraph* graph,
                                                OrtEpGraphSupportInfo* info) noexcept;
  static OrtStatus* ORT_API_CALL compile(OrtEp* self, const OrtGraph** graphs, const OrtNode** fused_nodes,
                                         size_t count, OrtNodeComputeInfo** infos, OrtNode** contexts) noexcept;
  static void ORT_API_CALL release_infos(OrtEp* self, OrtNodeComputeInfo** infos, size_t count) noexcept;
  static OrtStatus* ORT_API_CALL set_options(OrtEp* self, const char* const* keys, const char* const* values,
                                             size_t count) noexcept;
  static OrtStatus* ORT_API_CALL on_run_start(OrtEp* self, const OrtRunOptions* options) noexcept;

  void claim(const OrtGraph* graph, OrtEpGraphSupportInfo* info);
  FusedNode* compile(const OrtGraph* graph, const OrtNode* fused_node);
  void log(OrtLoggingLevel level, const std::string& message) const noexcept;
  std::string complaint() const;

  const OrtApi& api_;
  const OrtEpApi& ep_api_;
  const OrtLogger& logger_;
  Options options_;
  bool several_graphs_;        // whether it may take nodes of more than one
  std::vector<Site> claimed_;  // in the graph that is about to be compiled
  bool claimed_any_ = false;   // in the session
  bool compiled_ = false;      // something of a graph before
  Report report_;
};

}  // namespace ort_tconv::provider
