// SegregatedConvTranspose as an ONNX Runtime custom operator: translates between ORT's tensors,
// attributes and statuses and the engine.  No arithmetic here.
#pragma once

#define ORT_API_MANUAL_INIT  // the API table arrives through RegisterCustomOps
#include <onnxruntime_cxx_api.h>

#include <string>

#include "ort/cpu_node.h"
#include "ort/support.h"

namespace ort_tconv {

// The oldest ONNX Runtime's, whose API is all that the operator uses.
constexpr uint32_t kOperatorApi = 21;

// One node of a session.
class CpuKernel {
 public:
  CpuKernel(const OrtApi& api, const OrtKernelInfo* info, DType dtype);
  OrtStatusPtr ComputeV2(OrtKernelContext* context) noexcept;

 private:
  void compute(OrtKernelContext* context);

  const OrtApi& api_;
  std::string name_;  // of the node, for messages
  CpuNode node_;
  bool constant_w_ = false;
};

// Shape inference, one for every element type and provider: ORT calls that of the first operator
// registered under a name.
OrtStatusPtr infer_output_shape(const OrtCustomOp* op, OrtShapeInferContext* context) noexcept;

// The same for an operator whose weights are input `w_input` and whose result has the type of input `type_input`.
OrtStatusPtr infer_output_shape(OrtShapeInferContext* context, size_t w_input, size_t type_input) noexcept;

// The operator for one element type, with the kernels of one provider.
template <class Kernel> class Operator : public Ort::CustomOpBase<Operator<Kernel>, Kernel, /*WithStatus=*/true> {
 public:
  Operator(DType dtype, const char* provider) : dtype_(dtype), provider_(provider) {
    // Whatever headers these are: a runtime refuses what is stamped with a newer version than its own.
    OrtCustomOp::version = kOperatorApi;
    // Set directly: the C++ wrapper's context throws outside of any handler.
    OrtCustomOp::InferOutputShapeFn = infer_output_shape;
  }
  OrtStatusPtr CreateKernelV2(const OrtApi& api, const OrtKernelInfo* info, void** kernel) const noexcept {
    std::string where;
    return guarded(api, where, [&] {
      where = node_name(api, info);
      *kernel = new Kernel(api, info, dtype_);
    });
  }
  const char* GetName() const { return kOpName; }
  const char* GetExecutionProviderType() const { return provider_; }
  size_t GetInputTypeCount() const { return 4; }
  ONNXTensorElementDataType GetInputType(size_t) const { return element_type(dtype_); }
  OrtCustomOpInputOutputCharacteristic GetInputCharacteristic(size_t i) const {
    return i < 2 ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
  }
  size_t GetOutputTypeCount() const { return 1; }
  ONNXTensorElementDataType GetOutputType(size_t) const { return element_type(dtype_); }
  OrtCustomOpInputOutputCharacteristic GetOutputCharacteristic(size_t) const { return INPUT_OUTPUT_REQUIRED; }

 private:
  DType dtype_;
  const char* provider_;
};

}  // namespace ort_tconv
