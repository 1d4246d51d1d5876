// SegregatedConvTranspose as an ONNX Runtime custom operator: translates between ORT's tensors,
// attributes and statuses and the engine.  No arithmetic here.
#pragma once

#define ORT_API_MANUAL_INIT  // the API table arrives through RegisterCustomOps
#include <onnxruntime_cxx_api.h>

#include <memory>
#include <mutex>
#include <vector>

#include "core/plan.h"
#include "cpu/run.h"

namespace ort_tconv {

constexpr const char* kDomain = "ort_tconv";
constexpr const char* kOpName = "SegregatedConvTranspose";

// One node of a session.
class CpuKernel {
 public:
  CpuKernel(const OrtApi& api, const OrtKernelInfo* info, DType dtype);
  OrtStatusPtr ComputeV2(OrtKernelContext* context) noexcept;

 private:
  void compute(OrtKernelContext* context);
  std::shared_ptr<const Prepared> prepare(const InputShapes& shapes);
  std::shared_ptr<const PackedWeights> constant_weights(const Prepared& prepared, const void* w);
  void prepare_ahead(const OrtKernelInfo* info, const OrtValue* w);

  const OrtApi& api_;
  DType dtype_;
  std::string name_;  // of the node, for messages
  Attributes attributes_;
  const KernelSet& kernels_;
  Machine machine_;
  bool constant_w_ = false;

  std::mutex mutex_;  // guards the two caches; their entries are immutable
  struct Entry {
    InputShapes shapes;
    Prepared prepared;
  };
  std::vector<std::shared_ptr<const Entry>> prepared_;  // most recently used last
  std::vector<std::shared_ptr<const PackedWeights>> packed_;
};

// The operator for one element type.
class CpuOp : public Ort::CustomOpBase<CpuOp, CpuKernel, /*WithStatus=*/true> {
 public:
  explicit CpuOp(DType dtype);
  OrtStatusPtr CreateKernelV2(const OrtApi& api, const OrtKernelInfo* info, void** kernel) const noexcept;
  const char* GetName() const { return kOpName; }
  const char* GetExecutionProviderType() const { return "CPUExecutionProvider"; }
  size_t GetInputTypeCount() const { return 4; }
  ONNXTensorElementDataType GetInputType(size_t) const { return type_; }
  OrtCustomOpInputOutputCharacteristic GetInputCharacteristic(size_t i) const {
    return i < 2 ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
  }
  size_t GetOutputTypeCount() const { return 1; }
  ONNXTensorElementDataType GetOutputType(size_t) const { return type_; }
  OrtCustomOpInputOutputCharacteristic GetOutputCharacteristic(size_t) const { return INPUT_OUTPUT_REQUIRED; }

 private:
  DType dtype_;
  ONNXTensorElementDataType type_;
};

}  // namespace ort_tconv
