#include "ort/provider/fused_node.h"

#include <algorithm>
#include <cstring>

#include "core/status.h"
#include "ort/provider/margin.h"
#include "ort/provider/weights.h"

namespace ort_tconv::provider {

FusedNode::FusedNode(const OrtApi& api, const Site& site, const Graph& graph, const std::vector<std::string>& inputs)
    : api_(api), label_(site.label), dtype_(site.dtype), node_(site.attributes, site.dtype), margin_(site.margin),
      constant_w_(site.constant_w) {
  ort_version_supported = kProviderApi;
  CreateState = create_state;
  Compute = compute;
  ReleaseState = release_state;

  x_ = source(site.x, graph, inputs);
  z_ = source(site.z, graph, inputs);
  if (site.bias) {
    b_.present = true;
    b_.shape = {static_cast<int64_t>(site.bias->size())};
    b_.data = rounded(*site.bias, dtype_);
  } else {
    b_ = source(site.b, graph, inputs);
  }
  if (!constant_w_) {
    w_ = source(site.w, graph, inputs);
    return;
  }
  const auto tensor = graph.constant(graph.find(site.w));
  require(tensor.has_value(), "input W, '", site.w, "', is not there any more");
  w_.present = true;
  w_.shape = site.w_shape;
  std::shared_ptr<const void> reformed;
  const void* data = tensor->data;
  if (site.reform) data = (reformed = rounded(site.reform(to_double(*tensor)), dtype_)).get();
  if (node_.prepare_ahead(extended(site.x_declared, margin_), w_.shape, data)) return;
  w_.data = reformed ? reformed : copy_of(data, element_count(w_.shape, "size of W") * storage_bytes(dtype_));
}

FusedNode::Source FusedNode::source(const std::string& name, const Graph& graph,
                                    const std::vector<std::string>& inputs) const {
  Source result;
  if (name.empty()) return result;
  result.present = true;
  const auto found = std::find(inputs.begin(), inputs.end(), name);
  if (found != inputs.end()) {
    result.input = found - inputs.begin();
    return result;
  }
  const auto tensor = graph.constant(graph.find(name));
  require(tensor.has_value(), "input '", name, "' is neither an input of the fused node nor a constant");
  result.shape = tensor->shape;
  result.data = copy_of(tensor->data, element_count(tensor->shape, "size of an input") * storage_bytes(dtype_));
  return result;
}

OrtStatus* FusedNode::create_state(OrtNodeComputeInfo* self, OrtNodeComputeContext*, void** state) noexcept {
  *state = self;
  return nullptr;
}

void FusedNode::release_state(OrtNodeComputeInfo*, void*) noexcept {}

OrtStatus* FusedNode::compute(OrtNodeComputeInfo* self, void*, OrtKernelContext* context) noexcept {
  auto& node = *static_cast<FusedNode*>(self);
  return guarded(node.api_, node.label_, [&] { node.run(context); }, kProviderName);
}

void FusedNode::run(OrtKernelContext* context) {
  InputShapes shapes;
  Tensors tensors;
  const auto take = [&](const Source& source, const char* what, Dims& shape, const void*& data) {
    if (source.input < 0) {
      shape = source.shape;
      data = source.data.get();
      return;
    }
    const OrtValue* value = nullptr;
    check(api_, api_.KernelContext_GetInput(context, static_cast<size_t>(source.input), &value));
    require(value, "input ", what, " is missing");
    shape = shape_of(api_, value);
    data = data_of(api_, value);
  };
  take(x_, "X", shapes.x, tensors.x);
  take(w_, "W", shapes.w, tensors.w);
  if (b_.present) take(b_, "B", shapes.b.emplace(), tensors.b);
  if (z_.present) take(z_, "Z", shapes.z.emplace(), tensors.z);
  SessionExecutor executor(api_, context);
  if (!margin_.any()) return node_.run(executor, shapes, tensors, constant_w_);
  require(shapes.x.size() == margin_.begins.size(), "input X has shape ", shapes.x, ": must have rank ",
          margin_.begins.size());
  const Dims inner = shapes.x;
  shapes.x = extended(inner, margin_);
  const auto bytes = checked_mul(element_count(shapes.x, "size of X"), storage_bytes(dtype_), "bytes of X");
  const auto release = [&](void* p) { executor.release(p); };
  const std::unique_ptr<void, decltype(release)> scratch(executor.allocate(static_cast<size_t>(bytes)), release);
  extend(tensors.x, inner, margin_, dtype_, scratch.get(), executor);
  tensors.x = scratch.get();
  node_.run(executor, shapes, tensors, constant_w_);
}

}  // namespace ort_tconv::provider
