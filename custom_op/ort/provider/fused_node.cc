#include "ort/provider/fused_node.h"

#include <algorithm>
#include <array>

#include "core/status.h"
#include "ort/cpu_node.h"
#include "ort/provider/margin.h"
#include "ort/provider/weights.h"
#include "ort/quantized_node.h"

namespace ort_tconv::provider {
namespace {

// A tensor of a call: an input, or what the provider keeps.
struct Source {
  bool present = false;
  int64_t input = -1;
  Dims shape;                        // of what is kept
  std::shared_ptr<const void> data;  // null if only packed weights are kept
};

// Where the tensors of a site come from.
class Sources {
 public:
  Sources(const Graph& graph, const std::vector<std::string>& inputs) : graph_(graph), inputs_(inputs) {}

  Source of(const std::string& name) const {
    Source result;
    if (name.empty()) return result;
    result.present = true;
    const auto found = std::find(inputs_.begin(), inputs_.end(), name);
    if (found != inputs_.end()) {
      result.input = found - inputs_.begin();
      return result;
    }
    const auto tensor = graph_.constant(graph_.find(name));
    require(tensor.has_value(), "input '", name, "' is neither an input of the fused node nor a constant");
    result.shape = tensor->shape;
    result.data = copy_of(tensor->data, tensor->bytes);
    return result;
  }
  Source of(const Operand& operand) const {
    return operand.data ? kept(operand.shape, operand.data) : of(operand.name);
  }
  static Source kept(Dims shape, std::shared_ptr<const void> data) {
    return {true, -1, std::move(shape), std::move(data)};
  }

  Tensor constant_weights(const std::string& name) const {
    const auto tensor = graph_.constant(graph_.find(name));
    require(tensor.has_value(), "input W, '", name, "', is not there any more");
    return *tensor;
  }

 private:
  const Graph& graph_;
  const std::vector<std::string>& inputs_;
};

// Shape and data of a source that is present.
void take(const OrtApi& api, const OrtKernelContext* context, const Source& source, const char* what, Dims& shape,
          const void*& data) {
  if (source.input < 0) {
    shape = source.shape;
    data = source.data.get();
    return;
  }
  const OrtValue* value = nullptr;
  check(api, api.KernelContext_GetInput(context, static_cast<size_t>(source.input), &value));
  require(value, "input ", what, " is missing");
  shape = shape_of(api, value);
  data = data_of(api, value);
}

class FloatNode final : public FusedNode {
 public:
  FloatNode(const OrtApi& api, const Site& site, const Sources& sources)
      : FusedNode(api, site), dtype_(site.dtype), node_(site.attributes, site.dtype), margin_(site.margin),
        constant_w_(site.constant_w), x_(sources.of(site.x)), z_(sources.of(site.z)) {
    b_ = site.bias ? Sources::kept({static_cast<int64_t>(site.bias->size())}, rounded(*site.bias, dtype_))
                   : sources.of(site.b);
    if (!constant_w_) {
      w_ = sources.of(site.w);
      return;
    }
    const Tensor tensor = sources.constant_weights(site.w);
    w_ = Sources::kept(site.w_shape, nullptr);
    std::shared_ptr<const void> reformed;
    const void* data = tensor.data;
    if (site.reform) data = (reformed = rounded(site.reform(to_double(tensor)), dtype_)).get();
    if (node_.prepare_ahead(extended(site.x_declared, margin_), w_.shape, data)) return;
    w_.data = reformed ? reformed : copy_of(data, tensor.bytes);
  }

 private:
  void run(OrtKernelContext* context) override {
    InputShapes shapes;
    Tensors tensors;
    take(api_, context, x_, "X", shapes.x, tensors.x);
    take(api_, context, w_, "W", shapes.w, tensors.w);
    if (b_.present) take(api_, context, b_, "B", shapes.b.emplace(), tensors.b);
    if (z_.present) take(api_, context, z_, "Z", shapes.z.emplace(), tensors.z);
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

  DType dtype_;
  CpuNode node_;
  Site::Margin margin_;
  bool constant_w_;
  Source x_, w_, b_, z_;
};

class IntegerNode final : public FusedNode {
 public:
  IntegerNode(const OrtApi& api, const Site& site, const Sources& sources)
      : FusedNode(api, site), node_(site.attributes, site.quantized->types, site.quantized->float_bias),
        constant_w_(site.constant_w) {
    for (size_t i = 0; i < sources_.size(); ++i)
      if (i != QuantizedNode::kW || !constant_w_) sources_[i] = sources.of(site.quantized->operands[i]);
    if (!constant_w_) return;
    const Tensor tensor = sources.constant_weights(site.quantized->operands[QuantizedNode::kW].name);
    const bool packed = node_.prepare_ahead(site.x_declared, tensor.shape, tensor.data);
    sources_[QuantizedNode::kW] = Sources::kept(tensor.shape, packed ? nullptr : copy_of(tensor.data, tensor.bytes));
  }

 private:
  void run(OrtKernelContext* context) override {
    QuantizedNode::Arguments arguments;
    for (size_t i = 0; i < sources_.size(); ++i) {
      auto& argument = arguments[i];
      argument.present = sources_[i].present;
      const char* const what = QuantizedNode::name(static_cast<QuantizedNode::Input>(i));
      if (argument.present) take(api_, context, sources_[i], what, argument.shape, argument.data);
    }
    SessionExecutor executor(api_, context);
    node_.run(executor, arguments, constant_w_);
  }

  QuantizedNode node_;
  bool constant_w_;
  std::array<Source, QuantizedNode::kInputs> sources_;
};

}  // namespace

std::unique_ptr<FusedNode> FusedNode::make(const OrtApi& api, const Site& site, const Graph& graph,
                                           const std::vector<std::string>& inputs) {
  const Sources sources(graph, inputs);
  if (site.quantized) return std::make_unique<IntegerNode>(api, site, sources);
  return std::make_unique<FloatNode>(api, site, sources);
}

FusedNode::FusedNode(const OrtApi& api, const Site& site) : OrtNodeComputeInfo{}, api_(api), label_(site.label) {
  ort_version_supported = kProviderApi;
  CreateState = create_state;
  Compute = compute;
  ReleaseState = release_state;
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

}  // namespace ort_tconv::provider
