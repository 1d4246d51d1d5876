#include "ort/op.h"

#include <algorithm>
#include <atomic>

#include "core/status.h"

namespace ort_tconv {
namespace {

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
// name.  Its status is dropped by ORT, so it checks nothing: the kernel does.  X is input 0.
void infer_shape(const OrtApi& api, OrtShapeInferContext* context, size_t w_input, size_t type_input) {
  OrtTensorTypeAndShapeInfo *x_info = nullptr, *w_info = nullptr, *type_info = nullptr;
  check(api, api.ShapeInferContext_GetInputTypeShape(context, 0, &x_info));
  check(api, api.ShapeInferContext_GetInputTypeShape(context, w_input, &w_info));
  check(api, api.ShapeInferContext_GetInputTypeShape(context, type_input, &type_info));
  ONNXTensorElementDataType type;
  check(api, api.GetTensorElementType(type_info, &type));
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
  const Owned<OrtTensorTypeAndShapeInfo> owned(info, api.ReleaseTensorTypeAndShapeInfo);
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
    : api_(api), name_(node_name(api, info)), node_(read_attributes(api, info), dtype) {
  int is_constant = 0;
  const OrtValue* w = nullptr;
  check(api_, api_.KernelInfoGetConstantInput_tensor(info, 1, &is_constant, &w));
  constant_w_ = is_constant && w;
  if (constant_w_) node_.prepare_ahead(declared_shape(api_, info), shape_of(api_, w), data_of(api_, w));
}

void CpuKernel::compute(OrtKernelContext* context) {
  const Inputs inputs(api_, context);
  Tensors tensors;
  tensors.x = data_of(api_, inputs.x);
  tensors.w = data_of(api_, inputs.w);
  if (inputs.b) tensors.b = data_of(api_, inputs.b);
  if (inputs.z) tensors.z = data_of(api_, inputs.z);
  SessionExecutor executor(api_, context);
  node_.run(executor, inputs.shapes, tensors, constant_w_);
}

OrtStatusPtr CpuKernel::ComputeV2(OrtKernelContext* context) noexcept {
  return guarded(api_, name_, [&] { compute(context); });
}

OrtStatusPtr infer_output_shape(const OrtCustomOp*, OrtShapeInferContext* context) noexcept {
  return infer_output_shape(context, 1, 0);
}

OrtStatusPtr infer_output_shape(OrtShapeInferContext* context, size_t w_input, size_t type_input) noexcept {
  // ORT drops a status without releasing it; the shape stays unknown, and the kernel says why.
  const OrtApi& api = Ort::GetApi();
  take_message(api, guarded(api, "", [&] { infer_shape(api, context, w_input, type_input); }));
  return nullptr;
}

}  // namespace ort_tconv
