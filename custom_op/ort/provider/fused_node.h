// A site as ONNX Runtime runs it: the fused node that has taken its place.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ort/provider/site.h"
#include "ort/support.h"

namespace ort_tconv::provider {

constexpr uint32_t kProviderApi = 23;  // the oldest that has what is used here; no newer one is asked for
constexpr const char* kProviderName = "TConvExecutionProvider";

class FusedNode : public OrtNodeComputeInfo {
 public:
  // `graph` holds the site's nodes, and the names of its inputs come in the order in which each run has them.
  // Plans, packs constant weights and keeps what ONNX Runtime is about to drop.  Throws Error or
  // std::bad_alloc.
  static std::unique_ptr<FusedNode> make(const OrtApi& api, const Site& site, const Graph& graph,
                                         const std::vector<std::string>& inputs);
  virtual ~FusedNode() = default;

 protected:
  FusedNode(const OrtApi& api, const Site& site);

  virtual void run(OrtKernelContext* context) = 0;

  const OrtApi& api_;

 private:
  static OrtStatus* ORT_API_CALL create_state(OrtNodeComputeInfo* self, OrtNodeComputeContext* context,
                                              void** state) noexcept;
  static OrtStatus* ORT_API_CALL compute(OrtNodeComputeInfo* self, void* state, OrtKernelContext* context) noexcept;
  static void ORT_API_CALL release_state(OrtNodeComputeInfo* self, void* state) noexcept;

  std::string label_;
};

}  // namespace ort_tconv::provider
