#include "ort/qlinear_op.h"

#include <array>

#include "core/status.h"
#include "ort/executor.h"
#include "ort/op.h"

namespace ort_tconv {
namespace {

enum Input { kX, kXScale, kXZero, kW, kWScale, kWZero, kYScale, kYZero, kB, kInputs };
constexpr std::array<const char*, kInputs> kNames{
    "x", "x_scale", "x_zero_point", "w", "w_scale", "w_zero_point", "y_scale", "y_zero_point", "B"};

ONNXTensorElementDataType element_type(QuantizedType type) {
  switch (type) {
    case QuantizedType::kUint8: return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
    case QuantizedType::kInt8: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
    case QuantizedType::kFloat32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
}

// The inputs of a call.
class Call {
 public:
  Call(const OrtApi& api, const OrtKernelContext* context) : api_(api) {
    size_t count = 0;
    check(api, api.KernelContext_GetInputCount(context, &count));
    for (size_t i = 0; i < kInputs && i < count; ++i) check(api, api.KernelContext_GetInput(context, i, &values_[i]));
    for (int i = 0; i < kB; ++i) require(values_[i], "input ", kNames[i], " is missing");
    shapes = {shape_of(api, values_[kX]), shape_of(api, values_[kW]), {}, {}};
    if (values_[kB]) shapes.b = shape_of(api, values_[kB]);
  }

  const void* data(Input i) const { return data_of(api_, values_[i]); }
  bool has(Input i) const { return values_[i] != nullptr; }

  template <class T>
  T scalar(Input i) const {
    const Dims shape = shape_of(api_, values_[i]);
    require(element_count(shape, kNames[i]) == 1, "input ", kNames[i], " has shape ", shape, ": must be a scalar");
    return *static_cast<const T*>(data(i));
  }
  template <class T>
  std::vector<T> list(Input i) const {
    const Dims shape = shape_of(api_, values_[i]);
    require(shape.size() <= 1, "input ", kNames[i], " has shape ", shape,
            ": must be a scalar or have one dimension, a value for each output channel");
    const T* v = static_cast<const T*>(data(i));
    return std::vector<T>(v, v + element_count(shape, kNames[i]));
  }
  int32_t zero(Input i, QuantizedType type) const {
    switch (type) {
      case QuantizedType::kUint8: return scalar<uint8_t>(i);
      case QuantizedType::kInt8: return scalar<int8_t>(i);
      case QuantizedType::kFloat32: break;
    }
    const float v = scalar<float>(i);
    require(v == 0, "input ", kNames[i], " = ", v, ": must be 0 for a float32 output, which is not quantised");
    return 0;
  }
  std::vector<int32_t> zeros(Input i, QuantizedType type) const {
    std::vector<int32_t> v;
    if (type == QuantizedType::kUint8)
      for (uint8_t e : list<uint8_t>(i)) v.push_back(e);
    else
      for (int8_t e : list<int8_t>(i)) v.push_back(e);
    return v;
  }

  InputShapes shapes;

 private:
  const OrtApi& api_;
  std::array<const OrtValue*, kInputs> values_{};
};

OrtStatusPtr infer_quantized_shape(const OrtCustomOp*, OrtShapeInferContext* context) noexcept {
  return infer_output_shape(context, kW, kYZero);
}

}  // namespace

QuantizedKernel::QuantizedKernel(const OrtApi& api, const OrtKernelInfo* info, QuantizedTypes types, bool float_bias)
    : api_(api), types_(types), float_bias_(float_bias), name_(node_name(api, info)),
      attributes_(read_attributes(api, info)), kernels_(quantized_kernels()), machine_(machine(kernels_)) {
  check_attributes(attributes_);
  check_quantized_activation(parse_activation(attributes_.activation, attributes_.activation_params, -1));
  int is_constant = 0;
  const OrtValue* w = nullptr;
  check(api_, api_.KernelInfoGetConstantInput_tensor(info, kW, &is_constant, &w));
  constant_w_ = is_constant && w;
  if (constant_w_) prepare_ahead(declared_shape(api_, info), w);
}

// Plans and packs when the session is created, for the shape the model declares, or a likely one.
void QuantizedKernel::prepare_ahead(const Dims& declared, const OrtValue* w) {
  const Dims w_shape = shape_of(api_, w), x_shape = likely_shape(declared, w_shape);
  if (x_shape.empty()) return;
  try {
    const auto prepared = prepare({x_shape, w_shape, {}, {}});
    if (element_count(prepared->problem().y_shape(), "output size") > 0) cache_.weights(*prepared, data_of(api_, w), 1);
  } catch (const Error&) {
    if (x_shape == declared) throw;
    // The guess did not fit; the shapes of the first run decide.
  }
}

std::shared_ptr<const QuantizedPrepared> QuantizedKernel::prepare(const InputShapes& shapes) {
  return cache_.prepared(shapes, [&] {
    return QuantizedPrepared(make_problem(attributes_, shapes), types_, kernels_, machine_, attributes_.algorithm);
  });
}

void QuantizedKernel::compute(OrtKernelContext* context) {
  const Call call(api_, context);
  const auto prepared = prepare(call.shapes);
  Quantization q;
  q.x_scale = call.scalar<float>(kXScale);
  q.y_scale = call.scalar<float>(kYScale);
  q.x_zero = call.zero(kXZero, types_.x);
  q.y_zero = call.zero(kYZero, types_.y);
  q.w_scale = call.list<float>(kWScale);
  q.w_zero = call.zeros(kWZero, types_.w);
  if (call.has(kB) && float_bias_) q.float_bias = call.list<float>(kB);
  else if (call.has(kB)) q.bias = call.list<int32_t>(kB);
  const Requantization r = requantization(prepared->problem(), types_, q);

  const Dims y_shape = prepared->problem().y_shape();
  OrtValue* y = nullptr;
  check(api_, api_.KernelContext_GetOutput(context, 0, y_shape.data(), y_shape.size(), &y));
  if (element_count(y_shape, "output size") == 0) return;
  Tensors tensors;
  tensors.x = call.data(kX);
  tensors.w = call.data(kW);
  tensors.y = const_cast<void*>(data_of(api_, y));
  SessionExecutor executor(api_, context);
  const auto packed = constant_w_ ? cache_.weights(*prepared, tensors.w, 1) : prepared->pack(tensors.w);
  prepared->run(*packed, r, tensors, executor);
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
  switch (static_cast<Input>(i)) {
    case kX:
    case kXZero: return element_type(types_.x);
    case kW:
    case kWZero: return element_type(types_.w);
    case kYZero: return element_type(types_.y);
    case kB: return float_bias_ ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
    default: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }
}

ONNXTensorElementDataType QuantizedOperator::GetOutputType(size_t) const { return element_type(types_.y); }

}  // namespace ort_tconv
