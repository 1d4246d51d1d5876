// QLinearSegregatedConvTranspose as an ONNX Runtime custom operator.  Inputs as of ONNX's QLinearConv,
// attributes as of SegregatedConvTranspose.
#pragma once

#include <string>

#include "ort/op.h"
#include "ort/quantized_node.h"
#include "ort/support.h"

namespace ort_tconv {

constexpr const char* kQuantizedOpName = "QLinearSegregatedConvTranspose";

// One node of a session.
class QuantizedKernel {
 public:
  QuantizedKernel(const OrtApi& api, const OrtKernelInfo* info, QuantizedTypes types, bool float_bias);
  OrtStatusPtr ComputeV2(OrtKernelContext* context) noexcept;

 private:
  void compute(OrtKernelContext* context);

  const OrtApi& api_;
  std::string name_;  // of the node, for messages
  QuantizedNode node_;
  bool constant_w_ = false;
};

// The operator for one choice of types.
class QuantizedOperator : public Ort::CustomOpBase<QuantizedOperator, QuantizedKernel, /*WithStatus=*/true> {
 public:
  QuantizedOperator(QuantizedTypes types, bool float_bias);
  OrtStatusPtr CreateKernelV2(const OrtApi& api, const OrtKernelInfo* info, void** kernel) const noexcept;
  const char* GetName() const { return kQuantizedOpName; }
  const char* GetExecutionProviderType() const { return "CPUExecutionProvider"; }
  size_t GetInputTypeCount() const { return 9; }
  ONNXTensorElementDataType GetInputType(size_t i) const;
  OrtCustomOpInputOutputCharacteristic GetInputCharacteristic(size_t i) const {
    return i < 8 ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
  }
  size_t GetOutputTypeCount() const { return 1; }
  ONNXTensorElementDataType GetOutputType(size_t) const;
  OrtCustomOpInputOutputCharacteristic GetOutputCharacteristic(size_t) const { return INPUT_OUTPUT_REQUIRED; }

 private:
  QuantizedTypes types_;
  bool float_bias_;
};

}  // namespace ort_tconv
