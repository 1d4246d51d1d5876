// One view of a graph that ONNX Runtime shows to its execution providers: nodes, values and who reads them.
// Valid as long as the OrtGraph is.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/plan.h"
#include "ort/support.h"

namespace ort_tconv::provider {

struct Value;

struct Node {
  const OrtNode* node = nullptr;
  std::string name, domain, op;
  std::string assigned;  // provider that has it already, or ""
  int since = 0;         // version of the operator
  bool has_subgraphs = false;
  mutable bool taken = false;  // by a site, while these are looked for
  std::vector<Value*> inputs;  // null where an optional one is left out
  std::vector<Value*> outputs;

  Value* input(size_t i) const { return i < inputs.size() ? inputs[i] : nullptr; }
  // Whether it is one of ONNX's own operators.
  bool own(std::string_view type) const { return domain.empty() && op == type; }
  // Its name, or that of its first output if it has none.
  const std::string& label() const;
};

// A size of a tensor: a number, or -1 and a symbol that stands for the same size wherever it occurs, or
// neither.
struct Size {
  int64_t number = -1;
  std::string symbol;
};

struct Value {
  const OrtValueInfo* info = nullptr;
  std::string name;
  Node* producer = nullptr;
  std::vector<Node*> readers;  // one entry a use, by the nodes' subgraphs included
  bool graph_output = false;

  // The node that alone reads it, null if there is none: readers are several, none, or outside of the graph.
  const Node* only_reader() const { return readers.size() == 1 && !graph_output ? readers[0] : nullptr; }
};

// Values of a constant, in memory of ONNX Runtime's.
struct Tensor {
  ONNXTensorElementDataType type;
  Dims shape;
  const void* data;
  int64_t bytes;
};

std::optional<DType> float_type(ONNXTensorElementDataType type);

class Graph {
 public:
  // Throws Error.
  Graph(const OrtApi& api, const OrtGraph* graph);
  Graph(const Graph&) = delete;

  const std::string& name() const { return name_; }
  const Node* parent() const { return parent_ ? &*parent_ : nullptr; }
  const std::vector<std::unique_ptr<Node>>& nodes() const { return nodes_; }
  Value* find(const std::string& name) const;

  // Element type of a value; undefined for what is not a tensor.
  ONNXTensorElementDataType type(const Value& value) const;
  // Nothing if not even the rank is known, and for scalars.
  std::optional<std::vector<Size>> sizes(const Value& value) const;
  // The same as numbers, -1 for an unknown one; empty if the rank is not known.
  Dims dims(const Value& value) const;
  // An initializer that no caller may replace, of this graph or one around it.
  bool is_constant(const Value* value) const;
  std::optional<Tensor> constant(const Value* value) const;

  // Attributes; what the node does not have is `missing`.  Throw Error for another type.
  int64_t integer(const Node& node, const char* name, int64_t missing) const;
  float number(const Node& node, const char* name, float missing) const;
  std::vector<double> numbers(const Node& node, const char* name) const;  // a list of floats
  std::string text(const Node& node, const char* name, const char* missing) const;
  Dims integers(const Node& node, const char* name) const;

 private:
  Value* value(const OrtValueInfo* info);
  Node read(const OrtNode* node);
  template <class T> std::vector<T> list(const Node& node, const char* name, OrtOpAttrType type) const;
  const OrtOpAttr* attribute(const Node& node, const char* name, OrtOpAttrType type) const;

  const OrtApi& api_;
  std::string name_;
  std::optional<Node> parent_;  // without inputs and outputs
  std::vector<std::unique_ptr<Node>> nodes_;
  std::unordered_map<std::string, std::unique_ptr<Value>> values_;
};

}  // namespace ort_tconv::provider
