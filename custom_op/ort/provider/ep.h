// The execution provider of one session: tells ONNX Runtime which nodes it takes, and compiles them.
#pragma once

#include <string>
#include <vector>

#include "ort/provider/capability.h"
#include "ort/provider/fused_node.h"
#include "ort/provider/options.h"

namespace ort_tconv::provider {

class Ep final : public OrtEp {
 public:
  // Throws Error.
  Ep(const OrtApi& api, const OrtSessionOptions* options, const OrtLogger& logger);

 private:
  static const char* ORT_API_CALL get_name(const OrtEp*) noexcept { return kProviderName; }
  static OrtStatus* ORT_API_CALL get_capability(OrtEp* self, const OrtGraph* graph,
                                                OrtEpGraphSupportInfo* info) noexcept;
  static OrtStatus* ORT_API_CALL compile(OrtEp* self, const OrtGraph** graphs, const OrtNode** fused_nodes,
                                         size_t count, OrtNodeComputeInfo** infos, OrtNode** contexts) noexcept;
  static void ORT_API_CALL release_infos(OrtEp* self, OrtNodeComputeInfo** infos, size_t count) noexcept;

  void claim(const OrtGraph* graph, OrtEpGraphSupportInfo* info);
  FusedNode* compile(const OrtGraph* graph, const OrtNode* fused_node);
  void log(OrtLoggingLevel level, const std::string& message) const noexcept;

  const OrtApi& api_;
  const OrtEpApi& ep_api_;
  const OrtLogger& logger_;
  Options options_;
  std::vector<Site> claimed_;  // in the graph that is about to be compiled
  bool claimed_any_ = false;   // in the session
  std::string complaint_;      // for Compile, if there should have been something
};

}  // namespace ort_tconv::provider
