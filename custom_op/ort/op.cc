#include "ort/op.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>

#include "core/status.h"
#include "cpu/arch.h"
#include "cpu/weight_cache.h"

namespace ort_tconv {
namespace {

ONNXTensorElementDataType element_type(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    case DType::kFloat64: return ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE;
    case DType::kFloat16: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    case DType::kBFloat16: return ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
  }
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
}

// Releases a status and returns its message; "" for success.
std::string take_message(const OrtApi& api, OrtStatusPtr status) {
  if (!status) return {};
  std::string message = api.GetErrorMessage(status);
  if (message.empty()) message = "unknown error";
  api.ReleaseStatus(status);
  return message;
}

void check(const OrtApi& api, OrtStatusPtr status) {
  const std::string message = take_message(api, status);
  if (!message.empty()) throw Error(message);
}

// Runs `body` and turns whatever it throws into a status: nothing may cross the C boundary.
template <class Body>
OrtStatusPtr guarded(const OrtApi& api, const std::string& where, Body body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const std::bad_alloc&) {
    return api.CreateStatus(ORT_FAIL, "SegregatedConvTranspose: out of memory");
  } catch (const std::exception& e) {
    try {
      return api.CreateStatus(
          ORT_INVALID_ARGUMENT,
          concat(kOpName, where.empty() ? "" : " '", where, where.empty() ? "" : "'", ": ", e.what()).c_str());
    } catch (...) {
      return api.CreateStatus(ORT_FAIL, "SegregatedConvTranspose failed, and so did describing why");
    }
  } catch (...) {
    return api.CreateStatus(ORT_FAIL, "SegregatedConvTranspose: unknown exception");
  }
}

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
  struct Release {
    const OrtApi& api;
    OrtTensorTypeAndShapeInfo* info;
    ~Release() { api.ReleaseTensorTypeAndShapeInfo(info); }
  } release{api, info};
  return dims_of(api, info);
}

const void* data_of(const OrtApi& api, const OrtValue* value) {
  void* data = nullptr;
  check(api, api.GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  return data;
}

// The session's thread pool and CPU allocator.
class SessionExecutor final : public Executor {
 public:
  SessionExecutor(const OrtApi& api, OrtKernelContext* context) : api_(api), context_(context) {
    OrtMemoryInfo* info = nullptr;
    check(api_, api_.CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &info));
    const std::string error = take_message(api_, api_.KernelContext_GetAllocator(context_, info, &allocator_));
    api_.ReleaseMemoryInfo(info);
    if (!error.empty()) throw Error(error);
  }
  ~SessionExecutor() override {
    if (allocator_) api_.ReleaseAllocator(allocator_);
  }

  void parallel(int64_t n, const std::function<void(int64_t)>& fn) override {
    if (n == 1) return fn(0);
    const auto call = [](void* f, size_t i) {
      (*static_cast<const std::function<void(int64_t)>*>(f))(static_cast<int64_t>(i));
    };
    check(api_, api_.KernelContext_ParallelFor(context_, call, static_cast<size_t>(n), 0,
                                               const_cast<std::function<void(int64_t)>*>(&fn)));
  }
  void* allocate(size_t bytes) override {
    void* p = nullptr;
    try {
      p = allocator_->Alloc(allocator_, bytes);
    } catch (...) {  // ORT's allocators report by throwing, of their own types
    }
    if (!p) throw std::bad_alloc();
    return p;
  }
  void release(void* p) override { allocator_->Free(allocator_, p); }

 private:
  const OrtApi& api_;
  OrtKernelContext* context_;
  OrtAllocator* allocator_ = nullptr;
};

constexpr size_t kPreparedShapes = 8;  // shapes a node remembers

bool same(const InputShapes& a, const InputShapes& b) { return a.x == b.x && a.w == b.w && a.b == b.b && a.z == b.z; }

// Attributes of the node in shape inference.  What is absent or of another type reads as the value given
// for missing: the kernel refuses it.
class InferenceAttributes {
 public:
  InferenceAttributes(const OrtApi& api, const OrtShapeInferContext* context) : api_(api), context_(context) {}

  Dims list(const char* name) const {
    const OrtOpAttr* attribute = find(name);
    size_t bytes = 0;
    if (attribute) take_message(api_, api_.ReadOpAttr(attribute, ORT_OP_ATTR_INTS, nullptr, 0, &bytes));
    Dims v(bytes / sizeof(int64_t));
    if (!v.empty()) check(api_, api_.ReadOpAttr(attribute, ORT_OP_ATTR_INTS, v.data(), bytes, &bytes));
    return v;
  }

  std::string text(const char* name) const {
    const OrtOpAttr* attribute = find(name);
    char text[64] = {};
    size_t bytes = 0;
    if (attribute) take_message(api_, api_.ReadOpAttr(attribute, ORT_OP_ATTR_STRING, text, sizeof(text) - 1, &bytes));
    return text;
  }

  int64_t integer(const char* name, int64_t missing) const {
    const OrtOpAttr* attribute = find(name);
    int64_t v = missing;
    size_t bytes = 0;
    const bool read =
        attribute && take_message(api_, api_.ReadOpAttr(attribute, ORT_OP_ATTR_INT, &v, sizeof(v), &bytes)).empty();
    return read ? v : missing;
  }

 private:
  const OrtOpAttr* find(const char* name) const {
    const OrtOpAttr* attribute = nullptr;
    const bool found = take_message(api_, api_.ShapeInferContext_GetAttribute(context_, name, &attribute)).empty();
    return found ? attribute : nullptr;
  }

  const OrtApi& api_;
  const OrtShapeInferContext* context_;
};

// Shape inference.  Serves every element type: ORT calls that of the first operator registered under a
// name.  Its status is dropped by ORT, so it checks nothing: the kernel does.
void infer_shape(const OrtApi& api, OrtShapeInferContext* context) {
  OrtTensorTypeAndShapeInfo *x_info = nullptr, *w_info = nullptr;
  check(api, api.ShapeInferContext_GetInputTypeShape(context, 0, &x_info));
  check(api, api.ShapeInferContext_GetInputTypeShape(context, 1, &w_info));
  ONNXTensorElementDataType type;
  check(api, api.GetTensorElementType(x_info, &type));
  const Dims x = dims_of(api, x_info), w = dims_of(api, w_info);
  const size_t rank = std::max(x.size(), w.size());
  if (rank < 3 || rank > 2 + kMaxSpatial) return;  // unknown rank arrives as 0
  if (!x.empty() && !w.empty() && x.size() != w.size()) return;
  std::vector<const char*> x_names(x.size(), nullptr);
  if (!x.empty()) check(api, api.GetSymbolicDimensions(x_info, x_names.data(), x_names.size()));

  const InferenceAttributes read(api, context);
  Attributes a;
  a.strides = read.list("strides");
  a.pads = read.list("pads");
  a.dilations = read.list("dilations");
  a.output_padding = read.list("output_padding");
  a.output_shape = read.list("output_shape");
  a.kernel_shape = read.list("kernel_shape");
  a.group = read.integer("group", 1);
  a.auto_pad = read.text("auto_pad");

  // Each axis by itself, so that one unknown size does not hide the others.
  const size_t d = rank - 2;
  Dims y(rank, -1);
  if (!x.empty()) y[0] = x[0];
  if (!w.empty() && w[1] >= 0) y[1] = checked_mul(w[1], a.group, "number of output channels");
  for (size_t i = 0; i < d; ++i) {
    const auto at = [&](const Dims& v) { return v.size() == d ? Dims{v[i]} : Dims{}; };
    const int64_t k = !w.empty() && w[2 + i] > 0 ? w[2 + i] : a.kernel_shape.size() == d ? a.kernel_shape[i] : -1;
    const int64_t in = x.empty() ? -1 : x[2 + i];
    if (!a.output_shape.empty()) {
      if (a.output_shape.size() >= d) y[2 + i] = a.output_shape[a.output_shape.size() - d + i];
    } else if (k > 0 && in >= 0) {
      Attributes axis;
      axis.strides = at(a.strides);
      axis.dilations = at(a.dilations);
      axis.output_padding = at(a.output_padding);
      axis.auto_pad = a.auto_pad;
      if (a.pads.size() == 2 * d) axis.pads = {a.pads[i], a.pads[d + i]};
      y[2 + i] = make_problem(axis, {{1, 1, in}, {1, 1, k}, {}, {}}).out[0];
    }
  }

  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api, api.CreateTensorTypeAndShapeInfo(&info));
  struct Release {
    const OrtApi& api;
    OrtTensorTypeAndShapeInfo* info;
    ~Release() { api.ReleaseTensorTypeAndShapeInfo(info); }
  } release{api, info};
  check(api, api.SetTensorElementType(info, type));
  check(api, api.SetDimensions(info, y.data(), y.size()));
  // An unknown size must carry a name, or ORT records -1 as if it were a size; ORT 1.21 also drops the
  // known ones where no names are set.
  // A name shared with another node would say that both sizes are equal, and ORT plans its buffers by
  // such names: every call gets names of its own.
  static std::atomic<int64_t> calls{0};
  const int64_t call = calls++;
  std::vector<std::string> names;
  for (size_t i = 0; i < rank; ++i) {
    const bool batch_name = i == 0 && !x_names.empty() && x_names[0] && *x_names[0];
    names.push_back(y[i] >= 0 ? "" : batch_name ? x_names[0] : concat("segregated_conv_transpose_", call, "_dim_", i));
  }
  std::vector<const char*> pointers;
  for (const auto& n : names) pointers.push_back(n.c_str());
  check(api, api.SetSymbolicDimensions(info, pointers.data(), pointers.size()));
  check(api, api.ShapeInferContext_SetOutputTypeShape(context, 0, info));
}

}  // namespace

CpuKernel::CpuKernel(const OrtApi& api, const OrtKernelInfo* info, DType dtype)
    : api_(api), dtype_(dtype), name_(node_name(api, info)), attributes_(read_attributes(api, info)),
      kernels_(kernel_set()), machine_(machine(kernels_)) {
  check_attributes(attributes_);
  int is_constant = 0;
  const OrtValue* w = nullptr;
  check(api_, api_.KernelInfoGetConstantInput_tensor(info, 1, &is_constant, &w));
  constant_w_ = is_constant && w;
  if (constant_w_) prepare_ahead(info, w);
}

// Plans and packs when the session is created, for the shape the model declares, or a likely one.
void CpuKernel::prepare_ahead(const OrtKernelInfo* info, const OrtValue* w) {
  InputShapes shapes;
  shapes.w = shape_of(api_, w);
  size_t inputs = 0;
  check(api_, api_.KernelInfo_GetInputCount(info, &inputs));
  OrtTypeInfo* type = nullptr;
  if (take_message(api_, api_.KernelInfo_GetInputTypeInfo(info, 0, &type)).empty() && type) {
    const OrtTensorTypeAndShapeInfo* tensor = nullptr;
    check(api_, api_.CastTypeInfoToTensorInfo(type, &tensor));
    if (tensor) shapes.x = dims_of(api_, tensor);
    api_.ReleaseTypeInfo(type);
  }
  const bool known =
      !shapes.x.empty() && std::all_of(shapes.x.begin(), shapes.x.end(), [](int64_t v) { return v >= 0; });
  if (known) {
    const auto prepared = prepare(shapes);
    if (element_count(prepared->problem().y_shape(), "output size") > 0) constant_weights(*prepared, data_of(api_, w));
    return;
  }
  if (shapes.w.size() < 3) return;
  if (shapes.x.size() != shapes.w.size()) shapes.x.assign(shapes.w.size(), -1);
  for (size_t i = 0; i < shapes.x.size(); ++i)
    if (shapes.x[i] < 0) shapes.x[i] = i == 0 ? 1 : i == 1 ? shapes.w[0] : 64;
  try {
    constant_weights(*prepare(shapes), data_of(api_, w));
  } catch (const Error&) {
    // The guess did not fit; the shapes of the first run decide.
  }
}

std::shared_ptr<const Prepared> CpuKernel::prepare(const InputShapes& shapes) {
  const auto view = [](const std::shared_ptr<const Entry>& e) {
    return std::shared_ptr<const Prepared>(e, &e->prepared);
  };
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found =
        std::find_if(prepared_.begin(), prepared_.end(), [&](const auto& e) { return same(e->shapes, shapes); });
    if (found != prepared_.end()) {
      std::rotate(found, found + 1, prepared_.end());
      return view(prepared_.back());
    }
  }
  const auto entry = std::make_shared<const Entry>(
      Entry{shapes, Prepared(make_problem(attributes_, shapes), dtype_, kernels_, machine_, attributes_.algorithm)});
  std::lock_guard<std::mutex> lock(mutex_);
  if (prepared_.size() >= kPreparedShapes) prepared_.erase(prepared_.begin());
  prepared_.push_back(entry);
  return view(entry);
}

std::shared_ptr<const PackedWeights> CpuKernel::constant_weights(const Prepared& prepared, const void* w) {
  std::lock_guard<std::mutex> lock(mutex_);  // the first run in a layout packs, others wait for it
  for (const auto& p : packed_)
    if (p->layout == prepared.layout()) return p;
  const Problem& p = prepared.problem();
  const int64_t count = p.channels * p.group_out() * element_count(p.kernel, "kernel size");
  packed_.push_back(shared_weights(prepared, w, static_cast<size_t>(count * storage_bytes(dtype_))));
  return packed_.back();
}

void CpuKernel::compute(OrtKernelContext* context) {
  size_t inputs = 0;
  check(api_, api_.KernelContext_GetInputCount(context, &inputs));
  const auto input = [&](size_t i) {
    const OrtValue* v = nullptr;
    if (i < inputs) check(api_, api_.KernelContext_GetInput(context, i, &v));
    return v;
  };
  const OrtValue *x = input(0), *w = input(1), *b = input(2), *z = input(3);
  require(x, "input X is missing");
  require(w, "input W is missing");
  InputShapes shapes{shape_of(api_, x), shape_of(api_, w), {}, {}};
  if (b) shapes.b = shape_of(api_, b);
  if (z) shapes.z = shape_of(api_, z);
  const auto prepared = prepare(shapes);

  const Dims y_shape = prepared->problem().y_shape();
  OrtValue* y = nullptr;
  check(api_, api_.KernelContext_GetOutput(context, 0, y_shape.data(), y_shape.size(), &y));
  if (element_count(y_shape, "output size") == 0) return;

  Tensors tensors;
  tensors.x = data_of(api_, x);
  tensors.w = data_of(api_, w);
  if (b) tensors.b = data_of(api_, b);
  if (z) tensors.z = data_of(api_, z);
  tensors.y = const_cast<void*>(data_of(api_, y));
  SessionExecutor executor(api_, context);
  const auto packed = constant_w_ ? constant_weights(*prepared, tensors.w) : prepared->pack(tensors.w);
  prepared->run(*packed, tensors, executor);
}

OrtStatusPtr CpuKernel::ComputeV2(OrtKernelContext* context) noexcept {
  return guarded(api_, name_, [&] { compute(context); });
}

CpuOp::CpuOp(DType dtype) : dtype_(dtype), type_(element_type(dtype)) {
  // Set directly: the C++ wrapper's context throws outside of any handler.
  OrtCustomOp::InferOutputShapeFn = [](const OrtCustomOp*, OrtShapeInferContext* context) -> OrtStatusPtr {
    // ORT drops a status without releasing it; the shape stays unknown, and the kernel says why.
    take_message(Ort::GetApi(), guarded(Ort::GetApi(), "", [&] { infer_shape(Ort::GetApi(), context); }));
    return nullptr;
  };
}

OrtStatusPtr CpuOp::CreateKernelV2(const OrtApi& api, const OrtKernelInfo* info, void** kernel) const noexcept {
  std::string where;
  return guarded(api, where, [&] {
    where = node_name(api, info);
    *kernel = new CpuKernel(api, info, dtype_);
  });
}

}  // namespace ort_tconv
