#include "ort/quantized_node.h"

#include <utility>
#include <vector>

#include "core/status.h"

namespace ort_tconv {
namespace {

using Argument = QuantizedNode::Argument;

// Parameters of a call, by the names of its inputs.
class Parameters {
 public:
  explicit Parameters(const QuantizedNode::Arguments& arguments) : arguments_(arguments) {}

  template <class T>
  T scalar(QuantizedNode::Input i) const {
    const Argument& a = arguments_[i];
    const char* const what = QuantizedNode::name(i);
    require(element_count(a.shape, what) == 1, "input ", what, " has shape ", a.shape, ": must be a scalar");
    return *static_cast<const T*>(a.data);
  }
  template <class T>
  std::vector<T> list(QuantizedNode::Input i) const {
    const Argument& a = arguments_[i];
    const char* const what = QuantizedNode::name(i);
    require(a.shape.size() <= 1, "input ", what, " has shape ", a.shape,
            ": must be a scalar or have one dimension, a value for each output channel");
    const T* v = static_cast<const T*>(a.data);
    return std::vector<T>(v, v + element_count(a.shape, what));
  }
  int32_t zero(QuantizedNode::Input i, QuantizedType type) const {
    switch (type) {
      case QuantizedType::kUint8: return scalar<uint8_t>(i);
      case QuantizedType::kInt8: return scalar<int8_t>(i);
      case QuantizedType::kFloat32: break;
    }
    const float v = scalar<float>(i);
    require(v == 0, "input ", QuantizedNode::name(i), " = ", v,
            ": must be 0 for a float32 output, which is not quantised");
    return 0;
  }
  std::vector<int32_t> zeros(QuantizedNode::Input i, QuantizedType type) const {
    std::vector<int32_t> v;
    if (type == QuantizedType::kUint8)
      for (uint8_t e : list<uint8_t>(i)) v.push_back(e);
    else
      for (int8_t e : list<int8_t>(i)) v.push_back(e);
    return v;
  }

 private:
  const QuantizedNode::Arguments& arguments_;
};

}  // namespace

ONNXTensorElementDataType element_type(QuantizedType type) {
  switch (type) {
    case QuantizedType::kUint8: return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
    case QuantizedType::kInt8: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
    case QuantizedType::kFloat32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
}

const char* QuantizedNode::name(Input input) {
  static constexpr std::array<const char*, kInputs> kNames{
      "x", "x_scale", "x_zero_point", "w", "w_scale", "w_zero_point", "y_scale", "y_zero_point", "B"};
  return kNames[input];
}

QuantizedNode::QuantizedNode(Attributes attributes, QuantizedTypes types, bool float_bias)
    : attributes_(std::move(attributes)), types_(types), float_bias_(float_bias), kernels_(quantized_kernels()),
      machine_(machine(kernels_)) {
  check_attributes(attributes_);
  check_quantized_activation(parse_activation(attributes_.activation, attributes_.activation_params, -1));
}

bool QuantizedNode::prepare_ahead(const Dims& declared, const Dims& w_shape, const void* w) {
  return prepare_likely(declared, w_shape, [&](const InputShapes& shapes) {
    const auto prepared = prepare(shapes, true);
    if (element_count(prepared->problem().y_shape(), "output size") > 0) cache_.weights(*prepared, w, 1);
    return true;
  });
}

std::shared_ptr<const QuantizedPrepared> QuantizedNode::prepare(const InputShapes& shapes, bool constant_w) {
  return cache_.prepared(shapes, [&] {
    Problem problem = make_problem(attributes_, shapes);
    problem.constant_weights = constant_w;
    return QuantizedPrepared(problem, types_, kernels_, machine_, attributes_.algorithm);
  });
}

void QuantizedNode::run(SessionExecutor& executor, const Arguments& arguments, bool constant_w) {
  for (int i = 0; i < kB; ++i) require(arguments[i].present, "input ", name(Input(i)), " is missing");
  const Argument& b = arguments[kB];
  InputShapes shapes{arguments[kX].shape, arguments[kW].shape, {}, {}};
  if (b.present) shapes.b = b.shape;
  const auto prepared = prepare(shapes, constant_w);
  const Parameters read(arguments);
  Quantization q;
  q.x_scale = read.scalar<float>(kXScale);
  q.y_scale = read.scalar<float>(kYScale);
  q.x_zero = read.zero(kXZero, types_.x);
  q.y_zero = read.zero(kYZero, types_.y);
  q.w_scale = read.list<float>(kWScale);
  q.w_zero = read.zeros(kWZero, types_.w);
  if (b.present && float_bias_) q.float_bias = read.list<float>(kB);
  else if (b.present) q.bias = read.list<int32_t>(kB);
  const Requantization r = requantization(prepared->problem(), types_, q);

  const Dims y_shape = prepared->problem().y_shape();
  Tensors tensors;
  tensors.x = arguments[kX].data;
  tensors.w = arguments[kW].data;
  tensors.y = executor.output(0, y_shape);
  if (element_count(y_shape, "output size") == 0) return;
  const auto packed = constant_w ? cache_.weights(*prepared, tensors.w, 1) : prepared->pack(tensors.w);
  prepared->run(*packed, r, tensors, executor);
}

}  // namespace ort_tconv
