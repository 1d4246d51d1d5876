// A site as ONNX Runtime runs it: the fused node that has taken its place.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ort/cpu_node.h"
#include "ort/provider/site.h"

namespace ort_tconv::provider {

constexpr uint32_t kProviderApi = 23;  // the oldest that has what is used here; no newer one is asked for
constexpr const char* kProviderName = "TConvExecutionProvider";

class FusedNode final : public OrtNodeComputeInfo {
 public:
  // `graph` holds the site's nodes, and the names of its inputs come in the order in which each run has them.
  // Plans, packs constant weights and keeps what ONNX Runtime is about to drop.  Throws Error or
  // std::bad_alloc.
  FusedNode(const OrtApi& api, const Site& site, const Graph& graph, const std::vector<std::string>& inputs);

 private:
  static OrtStatus* ORT_API_CALL create_state(OrtNodeComputeInfo* self, OrtNodeComputeContext* context,
                                              void** state) noexcept;
  static OrtStatus* ORT_API_CALL compute(OrtNodeComputeInfo* self, void* state, OrtKernelContext* context) noexcept;
  static void ORT_API_CALL release_state(OrtNodeComputeInfo* self, void* state) noexcept;

  void run(OrtKernelContext* context);

  // A tensor of a call: an input, or what the provider keeps.
  struct Source {
    int64_t input = -1;
    Dims shape;                        // of what is kept
    std::shared_ptr<const void> data;  // null if only packed weights are kept
    bool present = false;
  };
  Source source(const std::string& name, const Graph& graph, const std::vector<std::string>& inputs) const;

  const OrtApi& api_;
  std::string label_;
  DType dtype_;
  CpuNode node_;
  Source x_, w_, b_, z_;
  Site::Margin margin_;
  bool constant_w_;
};

}  // namespace ort_tconv::provider
