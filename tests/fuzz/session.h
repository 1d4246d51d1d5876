// Models with SegregatedConvTranspose nodes, good or not, written as the bytes of a protobuf; and sessions of
// ONNX Runtime that run them with the operator linked into the program.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <optional>
#include <string>

#include "fuzz/provider.h"
#include "fuzz/values.h"

extern "C" OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base);

namespace ort_tconv::fuzz {

using Dims = std::vector<int64_t>;

// ---- protobuf, as much as a model needs (onnx.proto has the field numbers) -----------------------------

class Message {
 public:
  Message& integer(int field, int64_t v) {
    key(field, 0);
    varint(static_cast<uint64_t>(v));
    return *this;
  }
  Message& number(int field, float v) {
    key(field, 5);
    bytes.append(reinterpret_cast<const char*>(&v), 4);
    return *this;
  }
  Message& text(int field, const std::string& v) {
    key(field, 2);
    varint(v.size());
    bytes += v;
    return *this;
  }
  Message& message(int field, const Message& m) { return text(field, m.bytes); }
  std::string bytes;

 private:
  void key(int field, int wire) { varint(static_cast<uint64_t>(field) << 3 | wire); }
  void varint(uint64_t v) {
    for (; v >= 0x80; v >>= 7) bytes += static_cast<char>(v | 0x80);
    bytes += static_cast<char>(v);
  }
};

// ---- models ---------------------------------------------------------------------------------------------

struct Attribute {
  int type = 7;  // as in onnx.proto: 1 float, 2 integer, 3 string, 6 floats, 7 integers, 8 strings
  Dims integers;
  std::vector<float> floats;
  std::string text;
};

struct Input {
  std::string name;
  int element = 1;  // as in onnx.proto: 1 float, 2 uint8, 3 int8, 6 int32, 7 int64, 10 float16, 11 double, 16 bfloat16
  Dims declared;    // a negative size is open
  bool shape_known = true;
  bool constant = false;
  Dims dims;                   // of the initializer, or of the value fed
  int64_t missing_bytes = 0;   // the initializer's data is this much too short
  std::optional<float> value;  // of all elements, if they are of type float
};

// What the nodes of a model compute, each in ONNX's own operators and in ours.
enum class Form {
  kFloat,             // ConvTranspose
  kQuantizedWeights,  // DequantizeLinear of W, ConvTranspose; inputs are x, w, b, w_scale
  kQuantized,         // DequantizeLinear of x, w and b, ConvTranspose, QuantizeLinear; inputs are QLinearConv's
};

struct Model {
  std::map<std::string, Attribute> attributes;
  std::vector<Input> inputs;
  Form form = Form::kFloat;
  std::string weights;  // the provider's option
  int nodes = 1, outputs = 1;
  bool extra_attribute = false;
  bool onnx = false;  // its nodes are ONNX's, as execution providers meet them
};

constexpr int64_t kMostElements = 1 << 14;  // of a tensor that exists

// Elements of a tensor, -1 if more than may exist here.
inline int64_t elements(const Dims& dims) {
  int64_t n = 1;
  for (int64_t v : dims) {
    if (v < 0 || (v > 0 && n > kMostElements / v)) return -1;
    n *= v;
  }
  return n;
}

inline int64_t element_bytes(int type) {
  switch (type) {
    case 2:
    case 3: return 1;
    case 1:
    case 6: return 4;
    case 7:
    case 11: return 8;
  }
  return 2;
}

inline Message value_info(const std::string& name, int element, const Dims* shape) {
  Message tensor;
  tensor.integer(1, element);
  if (shape) {
    Message dims;
    for (size_t i = 0; i < shape->size(); ++i) {
      Message dim;
      if ((*shape)[i] < 0 && (*shape)[i] > -100) dim.text(2, name + std::to_string(i));
      else dim.integer(1, (*shape)[i]);
      dims.message(1, dim);
    }
    tensor.message(2, dims);
  }
  return Message().text(1, name).message(2, Message().message(1, tensor));
}

inline Message attribute_message(const std::string& name, const Attribute& a) {
  Message m;
  m.text(1, name);
  if (a.type == 1) m.number(2, a.floats.empty() ? 0.5f : a.floats[0]);
  if (a.type == 2) m.integer(3, a.integers.empty() ? 0 : a.integers[0]);
  if (a.type == 3) m.text(4, a.text);
  if (a.type == 6)
    for (float v : a.floats) m.number(7, v);
  if (a.type == 7)
    for (int64_t v : a.integers) m.integer(8, v);
  if (a.type == 8) m.text(9, a.text);
  return m.integer(20, a.type);
}

// Without its attributes.
inline Message bare_node(const std::string& type, const std::vector<std::string>& inputs,
                         const std::vector<std::string>& outputs, const std::string& domain = "") {
  Message n;
  for (const auto& name : inputs) n.text(1, name);
  for (const auto& name : outputs) n.text(2, name);
  return n.text(3, outputs.empty() ? type : outputs[0]).text(4, type).text(7, domain);
}

// The convolution number `index` of the model, which may be several nodes.
inline std::vector<Message> nodes(const Model& m, int index) {
  const std::string number = std::to_string(index);
  std::vector<std::string> inputs, outputs;
  for (const Input& input : m.inputs)
    inputs.push_back(index > 0 && input.name == "x" ? "y" + std::to_string(index - 1) : input.name);
  for (int i = 0; i < m.outputs; ++i) outputs.push_back((i ? "second" : "y") + number);

  std::vector<Message> result;
  const auto dequantized = [&](std::vector<std::string> from, int64_t axis) {
    const std::string to = from[0] + "_float" + number;
    Attribute a;
    a.type = 2;
    a.integers = {axis};
    result.push_back(bare_node("DequantizeLinear", from, {to}).message(5, attribute_message("axis", a)));
    return to;
  };
  std::string type = m.form == Form::kQuantized ? "QLinearSegregatedConvTranspose" : "SegregatedConvTranspose";
  std::optional<Message> last;
  if (m.onnx) {
    type = "ConvTranspose";
    if (m.form == Form::kQuantizedWeights && inputs.size() > 3) {
      const std::string w = dequantized({inputs[1], inputs[3]}, 1);
      inputs.erase(inputs.begin() + 3);
      inputs[1] = w;
    } else if (m.form == Form::kQuantized && inputs.size() > 7) {
      std::vector<std::string> floats = {dequantized({inputs[0], inputs[1], inputs[2]}, 1),
                                         dequantized({inputs[3], inputs[4], inputs[5]}, 1)};
      const bool integers = inputs.size() > 8 && m.inputs[8].element == 6;
      if (integers) floats.push_back(dequantized({inputs[8], inputs[4]}, 0));  // x_scale is 1
      floats.insert(floats.end(), inputs.begin() + (integers ? 9 : 8), inputs.end());
      if (!outputs.empty() && m.inputs[7].element != 1) {
        last = bare_node("QuantizeLinear", {"sum" + number, inputs[6], inputs[7]}, {outputs[0]});
        outputs[0] = "sum" + number;
      }
      inputs = floats;
    }
  }
  Message n = bare_node(type, inputs, outputs, m.onnx ? "" : "ort_tconv");
  for (const auto& [name, a] : m.attributes) {
    const bool ours = name == "algorithm" || name.rfind("activation", 0) == 0 || name.rfind("weight", 0) == 0;
    if (!m.onnx || !ours) n.message(5, attribute_message(name, a));
  }
  if (m.extra_attribute) n.message(5, Message().text(1, "unheard_of").integer(3, 1).integer(20, 2));
  result.push_back(n);
  if (last) result.push_back(*last);
  return result;
}

inline std::string content(const Input& input) {
  std::string data(static_cast<size_t>(elements(input.dims) * element_bytes(input.element)), '\0');
  Random random(data.size());
  const size_t bytes = static_cast<size_t>(element_bytes(input.element));
  const bool integers = input.element == 2 || input.element == 3 || input.element == 6;
  for (size_t i = 0; i < data.size(); ++i) {
    data[i] = static_cast<char>(random.next());
    if (i % bytes == bytes - 1 && !integers) data[i] &= '\xBF';  // the exponent's first bit: below 2, not NaN or Inf
  }
  for (size_t i = 0; input.value && input.element == 1 && i < data.size(); i += 4)
    std::memcpy(&data[i], &*input.value, 4);
  return data;
}

inline std::string serialized(const Model& m) {
  Message graph;
  for (int i = 0; i < m.nodes; ++i)
    for (const Message& node : nodes(m, i)) graph.message(1, node);
  graph.text(2, "graph");
  for (const Input& input : m.inputs) {
    if (input.constant) {
      Message tensor;
      for (int64_t v : input.dims) tensor.integer(1, v);
      tensor.integer(2, input.element).text(8, input.name);
      std::string data = elements(input.dims) < 0 ? std::string(64, '\1') : content(input);
      data.resize(data.size() - std::min(data.size(), static_cast<size_t>(input.missing_bytes)));
      graph.message(5, tensor.text(9, data));
    } else {
      graph.message(11, value_info(input.name, input.element, input.shape_known ? &input.declared : nullptr));
    }
  }
  const size_t like = m.form == Form::kQuantized && m.inputs.size() > 7 ? 7 : 0;  // y_zero_point
  graph.message(12, value_info("y" + std::to_string(m.nodes - 1), m.inputs[like].element, nullptr));
  return Message()
      .integer(1, 8)
      .message(8, Message().text(1, "").integer(2, 17))
      .message(8, Message().text(1, "ort_tconv").integer(2, 1))
      .message(7, graph)
      .bytes;
}

// ---- ONNX Runtime ---------------------------------------------------------------------------------------

inline Ort::Env& environment() {
  static Ort::Env env(ORT_LOGGING_LEVEL_FATAL, "ort_tconv");
  return env;
}

#ifdef ORT_TCONV_PROVIDER
constexpr bool kWays[] = {false, true};  // to have the operator, or the execution provider
#else
constexpr bool kWays[] = {false};
#endif

// `weights` is the provider's option.
inline Ort::SessionOptions options(bool provider = false, const std::string& weights = "") {
  Ort::SessionOptions result;
  result.SetIntraOpNumThreads(1);
  result.SetLogSeverityLevel(4);
  result.DisableCpuMemArena();  // so that the address sanitizer sees the ends of tensors
  if (OrtStatus* status = RegisterCustomOps(result, OrtGetApiBase())) {
    std::fprintf(stderr, "RegisterCustomOps: %s\n", Ort::GetApi().GetErrorMessage(status));
    std::abort();
  }
#ifdef ORT_TCONV_PROVIDER
  std::map<std::string, std::string> settings{{"strict", "1"}};
  if (!weights.empty()) settings["weights"] = weights;
  if (provider) add_provider(OrtGetApiBase(), environment(), result, settings);
#endif
  (void)provider, (void)weights;
  return result;
}

// The outputs; none if an input is larger than what may exist here.
inline std::vector<Ort::Value> run(Ort::Session& session, const Model& m) {
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
  std::vector<std::string> data;
  std::vector<const char*> names;
  std::vector<Ort::Value> values;
  for (const Input& input : m.inputs) {
    if (input.constant) continue;
    if (elements(input.dims) < 0) return {};
    data.push_back(content(input));
    data.back().resize(std::max<size_t>(1, data.back().size()));
  }
  size_t next = 0;
  for (const Input& input : m.inputs) {
    if (input.constant) continue;
    std::string& bytes = data[next++];
    names.push_back(input.name.c_str());
    values.push_back(Ort::Value::CreateTensor(memory, bytes.data(), bytes.size(), input.dims.data(), input.dims.size(),
                                              static_cast<ONNXTensorElementDataType>(input.element)));
  }
  const std::string output = "y" + std::to_string(m.nodes - 1);
  const char* outputs[] = {output.c_str()};
  return session.Run(Ort::RunOptions{}, names.data(), values.data(), values.size(), outputs, 1);
}

}  // namespace ort_tconv::fuzz
