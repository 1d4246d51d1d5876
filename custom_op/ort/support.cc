#include "ort/support.h"

#include <algorithm>
#include <cstring>

namespace ort_tconv {

ONNXTensorElementDataType element_type(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    case DType::kFloat64: return ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE;
    case DType::kFloat16: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    case DType::kBFloat16: return ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
  }
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
}

std::string take_message(const OrtApi& api, OrtStatusPtr status) {
  if (!status) return {};
  const Owned<OrtStatus> owned(status, api.ReleaseStatus);
  const char* message = api.GetErrorMessage(status);
  return *message ? message : "unknown error";
}

void check(const OrtApi& api, OrtStatusPtr status) {
  const std::string message = take_message(api, status);
  if (!message.empty()) throw Error(message);
}

namespace {

// Attributes of a node.  ORT reports a missing attribute and one of another type alike (a list read
// from a scalar even succeeds, empty), and its messages are the only difference; an attribute of the
// wrong type must be an error, never ignored.
class AttributeReader {
 public:
  AttributeReader(const OrtApi& api, const OrtKernelInfo* info) : api_(api), info_(info) {}

  int64_t integer(const char* name, int64_t missing) const {
    int64_t v = 0;
    const std::string error = take_message(api_, api_.KernelInfoGetAttribute_int64(info_, name, &v));
    if (error.empty()) return v;
    refuse_if_present(name, "an integer");
    return missing;
  }

  std::string text(const char* name, const char* missing) const {
    size_t size = 0;
    const std::string error = take_message(api_, api_.KernelInfoGetAttribute_string(info_, name, nullptr, &size));
    if (!error.empty() || size == 0) {
      refuse_if_present(name, "a string");
      return missing;
    }
    std::string v(size, '\0');
    check(api_, api_.KernelInfoGetAttribute_string(info_, name, v.data(), &size));
    v.resize(std::strlen(v.c_str()));
    return v;
  }

  Dims integers(const char* name) const {
    return list<int64_t>(name, "a list of integers", [&](int64_t* out, size_t* n) {
      return api_.KernelInfoGetAttributeArray_int64(info_, name, out, n);
    });
  }

  std::vector<float> floats(const char* name) const {
    return list<float>(name, "a list of floats", [&](float* out, size_t* n) {
      return api_.KernelInfoGetAttributeArray_float(info_, name, out, n);
    });
  }

 private:
  template <class U, class Read>
  std::vector<U> list(const char* name, const char* what, Read read) const {
    size_t n = 0;
    const std::string error = take_message(api_, read(nullptr, &n));
    if (!error.empty() || n == 0) {
      refuse_if_present(name, what);
      return {};
    }
    std::vector<U> v(n);
    check(api_, read(v.data(), &n));
    return v;
  }

  // Called when reading as the right type found nothing.
  void refuse_if_present(const char* name, const char* what) const {
    int64_t i;
    float f;
    size_t n = 0;
    const std::string error = take_message(api_, api_.KernelInfoGetAttribute_int64(info_, name, &i));
    const bool missing = error.find("No attribute with") != std::string::npos;
    if (missing) return;
    std::string is = "of another type";
    if (error.empty()) is = concat("the integer ", i);
    else if (take_message(api_, api_.KernelInfoGetAttribute_float(info_, name, &f)).empty())
      is = concat("the float ", f);
    else if (take_message(api_, api_.KernelInfoGetAttributeArray_int64(info_, name, nullptr, &n)).empty() && n > 0)
      is = concat("a list of ", n, " integers");
    else if (n = 0,
             take_message(api_, api_.KernelInfoGetAttributeArray_float(info_, name, nullptr, &n)).empty() && n > 0)
      is = concat("a list of ", n, " floats");
    else if (n = 0, take_message(api_, api_.KernelInfoGetAttribute_string(info_, name, nullptr, &n)).empty() && n > 0) {
      std::string v(n, '\0');
      take_message(api_, api_.KernelInfoGetAttribute_string(info_, name, v.data(), &n));
      is = concat("the string '", v.c_str(), "'");
    }
    fail("attribute ", name, " is ", is, ": must be ", what);
  }

  const OrtApi& api_;
  const OrtKernelInfo* info_;
};

}  // namespace

Attributes read_attributes(const OrtApi& api, const OrtKernelInfo* info) {
  const AttributeReader read(api, info);
  Attributes a;
  a.kernel_shape = read.integers("kernel_shape");
  a.strides = read.integers("strides");
  a.pads = read.integers("pads");
  a.dilations = read.integers("dilations");
  a.output_padding = read.integers("output_padding");
  a.output_shape = read.integers("output_shape");
  a.auto_pad = read.text("auto_pad", "NOTSET");
  a.group = read.integer("group", 1);
  a.activation = read.text("activation", "");
  a.activation_params = read.floats("activation_params");
  a.algorithm = read.text("algorithm", "");
  a.weights = read.text("weights", "");
  a.weight_scales = read.floats("weight_scales");
  a.allow_tf32 = read.integer("allow_tf32", 1);
  return a;
}

std::string node_name(const OrtApi& api, const OrtKernelInfo* info) {
  size_t size = 0;
  if (!take_message(api, api.KernelInfo_GetNodeName(info, nullptr, &size)).empty() || size == 0) return {};
  std::string v(size, '\0');
  check(api, api.KernelInfo_GetNodeName(info, v.data(), &size));
  v.resize(std::strlen(v.c_str()));
  return v;
}

Dims dims_of(const OrtApi& api, const OrtTensorTypeAndShapeInfo* info) {
  size_t rank = 0;
  check(api, api.GetDimensionsCount(info, &rank));
  Dims dims(rank);
  check(api, api.GetDimensions(info, dims.data(), rank));
  return dims;
}

Dims shape_of(const OrtApi& api, const OrtValue* value) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api, api.GetTensorTypeAndShape(value, &info));
  const Owned<OrtTensorTypeAndShapeInfo> owned(info, api.ReleaseTensorTypeAndShapeInfo);
  return dims_of(api, info);
}

const void* data_of(const OrtApi& api, const OrtValue* value) {
  void* data = nullptr;
  check(api, api.GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  return data;
}

Inputs::Inputs(const OrtApi& api, const OrtKernelContext* context) {
  size_t count = 0;
  check(api, api.KernelContext_GetInputCount(context, &count));
  const auto input = [&](size_t i) {
    const OrtValue* v = nullptr;
    if (i < count) check(api, api.KernelContext_GetInput(context, i, &v));
    return v;
  };
  x = input(0), w = input(1), b = input(2), z = input(3);
  require(x, "input X is missing");
  require(w, "input W is missing");
  shapes = {shape_of(api, x), shape_of(api, w), {}, {}};
  if (b) shapes.b = shape_of(api, b);
  if (z) shapes.z = shape_of(api, z);
}

bool same(const InputShapes& a, const InputShapes& b) { return a.x == b.x && a.w == b.w && a.b == b.b && a.z == b.z; }

Dims declared_shape(const OrtApi& api, const OrtKernelInfo* info) {
  OrtTypeInfo* type = nullptr;
  if (!take_message(api, api.KernelInfo_GetInputTypeInfo(info, 0, &type)).empty() || !type) return {};
  const Owned<OrtTypeInfo> owned(type, api.ReleaseTypeInfo);
  const OrtTensorTypeAndShapeInfo* tensor = nullptr;
  check(api, api.CastTypeInfoToTensorInfo(type, &tensor));
  return tensor ? dims_of(api, tensor) : Dims{};
}

Dims likely_shape(Dims declared, const Dims& w) {
  const auto open = [](int64_t size) { return size < 0; };
  if (!declared.empty() && std::none_of(declared.begin(), declared.end(), open)) return declared;
  if (w.size() < 3) return {};
  if (declared.size() != w.size()) declared.assign(w.size(), -1);
  for (size_t i = 0; i < declared.size(); ++i)
    if (declared[i] < 0) declared[i] = i == 0 ? 1 : i == 1 ? w[0] : 64;
  return declared;
}

}  // namespace ort_tconv
