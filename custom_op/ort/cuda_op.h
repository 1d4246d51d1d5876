// The operator's kernel for ONNX Runtime's CUDA provider.  Compiled where ORT_TCONV_CUDA is set.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cuda/launch.h"
#include "ort/support.h"

namespace ort_tconv {

// Memory of a provider's allocator.
class ProviderMemory {
 public:
  ProviderMemory() = default;
  ProviderMemory(OrtAllocator* allocator, int64_t bytes);
  // Scratch of one call: ordered by the call's stream, so it may be released as soon as all work is enqueued.
  ProviderMemory(const OrtApi& api, OrtKernelContext* context, OrtAllocator* allocator, int64_t bytes);
  ProviderMemory(ProviderMemory&& other) noexcept;
  ProviderMemory& operator=(ProviderMemory&& other) noexcept;
  ~ProviderMemory();
  void* get() const { return data_; }

 private:
  OrtAllocator* allocator_ = nullptr;
  void* data_ = nullptr;
};

// One node of a session.  ComputeV2 enqueues on the session's stream and returns: it allocates nothing but
// the session's scratch memory, and waits for nothing.
class CudaKernel {
 public:
  CudaKernel(const OrtApi& api, const OrtKernelInfo* info, DType dtype);
  OrtStatusPtr ComputeV2(OrtKernelContext* context) noexcept;

 private:
  struct Entry {
    InputShapes shapes;
    Problem problem;
    cuda::LaunchPlan plan;
  };
  // Packed on the device when the session was created.
  struct ConstantWeights {
    std::vector<int64_t> layout;
    ProviderMemory packed;
  };

  void pack_ahead(const OrtKernelInfo* info, const OrtValue* w);
  std::shared_ptr<const Entry> prepare(const InputShapes& shapes);
  void compute(OrtKernelContext* context);

  const OrtApi& api_;
  DType dtype_;
  std::string name_;  // of the node, for messages
  Attributes attributes_;
  Owned<OrtAllocator> allocator_;
  cuda::Device device_;
  ConstantWeights weights_;
  ProviderMemory slopes_;  // PRelu's, if there is more than one

  std::mutex mutex_;                                    // guards the list; its entries are immutable
  std::vector<std::shared_ptr<const Entry>> prepared_;  // most recently used last
};

}  // namespace ort_tconv
