#include "ort/provider/graph.h"

#include <algorithm>

#include "core/status.h"

namespace ort_tconv::provider {
namespace {

const char* name_of(OrtOpAttrType type) {
  switch (type) {
    case ORT_OP_ATTR_INT: return "an integer";
    case ORT_OP_ATTR_INTS: return "a list of integers";
    case ORT_OP_ATTR_FLOAT: return "a float";
    case ORT_OP_ATTR_FLOATS: return "a list of floats";
    case ORT_OP_ATTR_STRING: return "a string";
    case ORT_OP_ATTR_STRINGS: return "a list of strings";
    default: return "something else";
  }
}

// What a pair of ONNX Runtime's functions, one for the number and one for the elements, gives.
template <class T, class Count, class Get>
std::vector<const T*> list_of(const OrtApi& api, Count count, Get get) {
  size_t n = 0;
  check(api, count(&n));
  std::vector<const T*> items(n);
  if (n > 0) check(api, get(items.data(), n));
  return items;
}

}  // namespace

const std::string& Node::label() const {
  if (!name.empty()) return name;
  static const std::string unknown = "?";
  for (const Value* value : outputs)
    if (value && !value->name.empty()) return value->name;
  return unknown;
}

std::optional<DType> float_type(ONNXTensorElementDataType type) {
  for (DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16})
    if (type == element_type(dtype)) return dtype;
  return std::nullopt;
}

Graph::Graph(const OrtApi& api, const OrtGraph* graph) : api_(api) {
  const char* text = nullptr;
  check(api_, api_.Graph_GetName(graph, &text));
  name_ = text;
  const OrtNode* parent = nullptr;
  check(api_, api_.Graph_GetParentNode(graph, &parent));
  if (parent) {
    parent_.emplace();
    check(api_, api_.Node_GetName(parent, &text));
    parent_->name = text;
    check(api_, api_.Node_GetOperatorType(parent, &text));
    parent_->op = text;
  }
  for (const OrtNode* node : list_of<OrtNode>(
           api_, [&](size_t* n) { return api_.Graph_GetNumNodes(graph, n); },
           [&](const OrtNode** out, size_t n) { return api_.Graph_GetNodes(graph, out, n); })) {
    nodes_.push_back(std::make_unique<Node>(read(node)));
    Node* const added = nodes_.back().get();
    for (Value* value : added->outputs)
      if (value) value->producer = added;
    for (Value* value : added->inputs)
      if (value) value->readers.push_back(added);
    for (const OrtValueInfo* info : list_of<OrtValueInfo>(
             api_, [&](size_t* n) { return api_.Node_GetNumImplicitInputs(node, n); },
             [&](const OrtValueInfo** out, size_t n) { return api_.Node_GetImplicitInputs(node, out, n); }))
      if (Value* captured = value(info)) captured->readers.push_back(added);
  }
  for (const OrtValueInfo* info : list_of<OrtValueInfo>(
           api_, [&](size_t* n) { return api_.Graph_GetNumOutputs(graph, n); },
           [&](const OrtValueInfo** out, size_t n) { return api_.Graph_GetOutputs(graph, out, n); }))
    if (Value* output = value(info)) output->graph_output = true;
}

Value* Graph::value(const OrtValueInfo* info) {
  if (!info) return nullptr;
  const char* text = nullptr;
  check(api_, api_.GetValueInfoName(info, &text));
  if (!*text) return nullptr;
  auto& slot = values_[text];
  if (!slot) {
    slot = std::make_unique<Value>();
    slot->info = info;
    slot->name = text;
  }
  return slot.get();
}

Value* Graph::find(const std::string& name) const {
  const auto found = values_.find(name);
  return found == values_.end() ? nullptr : found->second.get();
}

Node Graph::read(const OrtNode* node) {
  Node result;
  result.node = node;
  const auto text = [&](auto get) {
    const char* t = nullptr;
    check(api_, get(node, &t));
    return std::string(t ? t : "");
  };
  result.name = text(api_.Node_GetName);
  result.op = text(api_.Node_GetOperatorType);
  result.domain = text(api_.Node_GetDomain);
  if (result.domain == "ai.onnx") result.domain.clear();  // the other spelling of ""
  result.assigned = text(api_.Node_GetEpName);
  check(api_, api_.Node_GetSinceVersion(node, &result.since));
  size_t subgraphs = 0;
  check(api_, api_.Node_GetNumSubgraphs(node, &subgraphs));
  result.has_subgraphs = subgraphs > 0;
  for (const OrtValueInfo* info : list_of<OrtValueInfo>(
           api_, [&](size_t* n) { return api_.Node_GetNumInputs(node, n); },
           [&](const OrtValueInfo** out, size_t n) { return api_.Node_GetInputs(node, out, n); }))
    result.inputs.push_back(value(info));
  for (const OrtValueInfo* info : list_of<OrtValueInfo>(
           api_, [&](size_t* n) { return api_.Node_GetNumOutputs(node, n); },
           [&](const OrtValueInfo** out, size_t n) { return api_.Node_GetOutputs(node, out, n); }))
    result.outputs.push_back(value(info));
  return result;
}

// ---- values -----------------------------------------------------------------------------------

namespace {

// Null for what is not a tensor.
const OrtTensorTypeAndShapeInfo* tensor_info(const OrtApi& api, const Value& value) {
  const OrtTypeInfo* type = nullptr;
  check(api, api.GetValueInfoTypeInfo(value.info, &type));
  if (!type) return nullptr;
  ONNXType kind;
  check(api, api.GetOnnxTypeFromTypeInfo(type, &kind));
  if (kind != ONNX_TYPE_TENSOR) return nullptr;
  const OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api, api.CastTypeInfoToTensorInfo(type, &info));
  return info;
}

}  // namespace

ONNXTensorElementDataType Graph::type(const Value& value) const {
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  if (const auto* info = tensor_info(api_, value)) check(api_, api_.GetTensorElementType(info, &type));
  return type;
}

std::optional<std::vector<Size>> Graph::sizes(const Value& value) const {
  const auto* info = tensor_info(api_, value);
  if (!info) return std::nullopt;
  const Dims numbers = dims_of(api_, info);
  if (numbers.empty()) return std::nullopt;  // an unknown rank arrives as 0
  std::vector<const char*> symbols(numbers.size(), nullptr);
  check(api_, api_.GetSymbolicDimensions(info, symbols.data(), symbols.size()));
  std::vector<Size> sizes(numbers.size());
  for (size_t i = 0; i < sizes.size(); ++i) {
    sizes[i].number = numbers[i];
    if (numbers[i] < 0 && symbols[i]) sizes[i].symbol = symbols[i];
  }
  return sizes;
}

Dims Graph::dims(const Value& value) const {
  Dims dims;
  if (const auto known = sizes(value))
    for (const Size& size : *known) dims.push_back(size.number);
  return dims;
}

bool Graph::is_constant(const Value* value) const {
  if (!value || value->producer) return false;
  bool constant = false;
  check(api_, api_.ValueInfo_IsConstantInitializer(value->info, &constant));
  return constant;
}

std::optional<Tensor> Graph::constant(const Value* value) const {
  if (!is_constant(value)) return std::nullopt;
  const OrtValue* data = nullptr;
  check(api_, api_.ValueInfo_GetInitializerValue(value->info, &data));
  if (!data) return std::nullopt;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api_, api_.GetTensorTypeAndShape(data, &info));
  const Owned<OrtTensorTypeAndShapeInfo> owned(info, api_.ReleaseTensorTypeAndShapeInfo);
  Tensor tensor;
  check(api_, api_.GetTensorElementType(info, &tensor.type));
  tensor.shape = dims_of(api_, info);
  tensor.data = data_of(api_, data);
  size_t bytes = 0;
  check(api_, api_.GetTensorSizeInBytes(data, &bytes));
  tensor.bytes = static_cast<int64_t>(bytes);
  return tensor;
}

// ---- attributes -------------------------------------------------------------------------------

const OrtOpAttr* Graph::attribute(const Node& node, const char* name, OrtOpAttrType wanted) const {
  const OrtOpAttr* found = nullptr;
  OrtStatus* status = api_.Node_GetAttributeByName(node.node, name, &found);
  if (status && api_.GetErrorCode(status) == ORT_NOT_FOUND) {
    api_.ReleaseStatus(status);
    return nullptr;
  }
  check(api_, status);
  if (!found) return nullptr;
  OrtOpAttrType type = ORT_OP_ATTR_UNDEFINED;
  check(api_, api_.OpAttr_GetType(found, &type));
  require(type == wanted, "attribute ", name, " is ", name_of(type), ": must be ", name_of(wanted));
  return found;
}

int64_t Graph::integer(const Node& node, const char* name, int64_t missing) const {
  size_t bytes = 0;
  if (const auto* found = attribute(node, name, ORT_OP_ATTR_INT))
    check(api_, api_.ReadOpAttr(found, ORT_OP_ATTR_INT, &missing, sizeof(missing), &bytes));
  return missing;
}

float Graph::number(const Node& node, const char* name, float missing) const {
  size_t bytes = 0;
  if (const auto* found = attribute(node, name, ORT_OP_ATTR_FLOAT))
    check(api_, api_.ReadOpAttr(found, ORT_OP_ATTR_FLOAT, &missing, sizeof(missing), &bytes));
  return missing;
}

std::string Graph::text(const Node& node, const char* name, const char* missing) const {
  const auto* found = attribute(node, name, ORT_OP_ATTR_STRING);
  if (!found) return missing;
  size_t bytes = 0;
  take_message(api_, api_.ReadOpAttr(found, ORT_OP_ATTR_STRING, nullptr, 0, &bytes));  // the size; fails
  std::string v(bytes, '\0');
  if (bytes > 0) check(api_, api_.ReadOpAttr(found, ORT_OP_ATTR_STRING, v.data(), bytes, &bytes));
  v.resize(std::min(v.find('\0'), v.size()));
  return v;
}

template <class T>
std::vector<T> Graph::list(const Node& node, const char* name, OrtOpAttrType type) const {
  const auto* found = attribute(node, name, type);
  if (!found) return {};
  size_t bytes = 0;
  take_message(api_, api_.ReadOpAttr(found, type, nullptr, 0, &bytes));  // the size; fails
  std::vector<T> v(bytes / sizeof(T));
  if (!v.empty()) check(api_, api_.ReadOpAttr(found, type, v.data(), bytes, &bytes));
  return v;
}

Dims Graph::integers(const Node& node, const char* name) const { return list<int64_t>(node, name, ORT_OP_ATTR_INTS); }

std::vector<double> Graph::numbers(const Node& node, const char* name) const {
  const auto v = list<float>(node, name, ORT_OP_ATTR_FLOATS);
  return {v.begin(), v.end()};
}

}  // namespace ort_tconv::provider
