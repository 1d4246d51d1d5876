#include "ort/qlinear_op.h"

#include "core/status.h"
#include "ort/op.h"

namespace ort_tconv {
namespace {

using Node = QuantizedNode;

OrtStatusPtr infer_quantized_shape(const OrtCustomOp*, OrtShapeInferContext* context) noexcept {
  return infer_output_shape(context, Node::kW, Node::kYZero);
}

}  // namespace

QuantizedKernel::QuantizedKernel(const OrtApi& api, const OrtKernelInfo* info, QuantizedTypes types, bool float_bias)
    : api_(api), name_(node_name(api, info)), node_(read_attributes(api, info), types, float_bias) {
  int is_constant = 0;
  const OrtValue* w = nullptr;
  check(api_, api_.KernelInfoGetConstantInput_tensor(info, Node::kW, &is_constant, &w));
  constant_w_ = is_constant && w;
  if (constant_w_) node_.prepare_ahead(declared_shape(api_, info), shape_of(api_, w), data_of(api_, w));
}

void QuantizedKernel::compute(OrtKernelContext* context) {
  size_t count = 0;
  check(api_, api_.KernelContext_GetInputCount(context, &count));
  Node::Arguments arguments;
  for (size_t i = 0; i < arguments.size() && i < count; ++i) {
    const OrtValue* value = nullptr;
    check(api_, api_.KernelContext_GetInput(context, i, &value));
    if (value) arguments[i] = {shape_of(api_, value), data_of(api_, value), true};
  }
  SessionExecutor executor(api_, context);
  node_.run(executor, arguments, constant_w_);
}

OrtStatusPtr QuantizedKernel::ComputeV2(OrtKernelContext* context) noexcept {
  return guarded(api_, name_, [&] { compute(context); }, kQuantizedOpName);
}

QuantizedOperator::QuantizedOperator(QuantizedTypes types, bool float_bias) : types_(types), float_bias_(float_bias) {
  OrtCustomOp::version = kOperatorApi;  // for both see Operator
  OrtCustomOp::InferOutputShapeFn = infer_quantized_shape;
}

OrtStatusPtr QuantizedOperator::CreateKernelV2(const OrtApi& api, const OrtKernelInfo* info,
                                               void** kernel) const noexcept {
  std::string where;
  const auto create = [&] {
    where = node_name(api, info);
    *kernel = new QuantizedKernel(api, info, types_, float_bias_);
  };
  return guarded(api, where, create, kQuantizedOpName);
}

ONNXTensorElementDataType QuantizedOperator::GetInputType(size_t i) const {
  switch (static_cast<Node::Input>(i)) {
    case Node::kX:
    case Node::kXZero: return element_type(types_.x);
    case Node::kW:
    case Node::kWZero: return element_type(types_.w);
    case Node::kYZero: return element_type(types_.y);
    case Node::kB: return float_bias_ ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
    default: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }
}

ONNXTensorElementDataType QuantizedOperator::GetOutputType(size_t) const { return element_type(types_.y); }

}  // namespace ort_tconv
