// Models with SegregatedConvTranspose nodes, good or not, written as the bytes of a protobuf; and sessions of
// ONNX Runtime that run them with the operator linked into the program.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <cstdio>
#include <cstdlib>
#include <map>
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
  int element = 1;  // as in onnx.proto: 1 float, 7 int64, 10 float16, 11 double, 16 bfloat16
  Dims declared;    // a negative size is open
  bool shape_known = true;
  bool constant = false;
  Dims dims;                  // of the initializer, or of the value fed
  int64_t missing_bytes = 0;  // the initializer's data is this much too short
};

struct Model {
  std::map<std::string, Attribute> attributes;
  std::vector<Input> inputs;
  int nodes = 1, outputs = 1;
  bool extra_attribute = false;
  bool onnx = false;  // its nodes are ONNX's ConvTranspose, as execution providers meet it
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

inline int64_t element_bytes(int type) { return type == 1 ? 4 : type == 7 || type == 11 ? 8 : 2; }

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

inline Message node(const Model& m, int index) {
  Message n;
  for (const Input& input : m.inputs)
    n.text(1, index > 0 && input.name == "x" ? "y" + std::to_string(index - 1) : input.name);
  for (int i = 0; i < m.outputs; ++i) n.text(2, (i ? "second" : "y") + std::to_string(index));
  n.text(3, "up").text(4, m.onnx ? "ConvTranspose" : "SegregatedConvTranspose");
  for (const auto& [name, a] : m.attributes) {
    if (m.onnx && (name.rfind("activation", 0) == 0 || name == "algorithm")) continue;
    Message attribute;
    attribute.text(1, name);
    if (a.type == 1) attribute.number(2, a.floats.empty() ? 0.5f : a.floats[0]);
    if (a.type == 2) attribute.integer(3, a.integers.empty() ? 0 : a.integers[0]);
    if (a.type == 3) attribute.text(4, a.text);
    if (a.type == 6)
      for (float v : a.floats) attribute.number(7, v);
    if (a.type == 7)
      for (int64_t v : a.integers) attribute.integer(8, v);
    if (a.type == 8) attribute.text(9, a.text);
    n.message(5, attribute.integer(20, a.type));
  }
  if (m.extra_attribute) n.message(5, Message().text(1, "unheard_of").integer(3, 1).integer(20, 2));
  return n.text(7, m.onnx ? "" : "ort_tconv");
}

inline std::string content(const Input& input) {
  std::string data(static_cast<size_t>(elements(input.dims) * element_bytes(input.element)), '\0');
  Random random(data.size());
  const size_t bytes = static_cast<size_t>(element_bytes(input.element));
  for (size_t i = 0; i < data.size(); ++i) {
    data[i] = static_cast<char>(random.next());
    if (i % bytes == bytes - 1) data[i] &= '\xBF';  // the exponent's first bit: below 2, so not NaN or Inf
  }
  return data;
}

inline std::string serialized(const Model& m) {
  Message graph;
  for (int i = 0; i < m.nodes; ++i) graph.message(1, node(m, i));
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
  graph.message(12, value_info("y" + std::to_string(m.nodes - 1), m.inputs[0].element, nullptr));
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

inline Ort::SessionOptions options(bool provider = false) {
  Ort::SessionOptions result;
  result.SetIntraOpNumThreads(1);
  result.SetLogSeverityLevel(4);
  result.DisableCpuMemArena();  // so that the address sanitizer sees the ends of tensors
  if (OrtStatus* status = RegisterCustomOps(result, OrtGetApiBase())) {
    std::fprintf(stderr, "RegisterCustomOps: %s\n", Ort::GetApi().GetErrorMessage(status));
    std::abort();
  }
#ifdef ORT_TCONV_PROVIDER
  if (provider) add_provider(OrtGetApiBase(), environment(), result, /*strict=*/true);
#endif
  (void)provider;
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
