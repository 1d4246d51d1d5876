// DequantizeLinear before a convolution.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ort/provider/site.h"

namespace ort_tconv::provider {

// Shape of a value as far as it is known: of a constant, or of what is no scalar.
std::optional<Dims> known_shape(const Value& value, const Graph& graph);

// Whether a value is known to be a scalar, or a list of one.
bool is_single(const Value& value, const Graph& graph);

// Whether it is ONNX's QuantizeLinear or DequantizeLinear, or ONNX Runtime's, which means the same.
bool is_linear(const Node* node, std::string_view type);

// A DequantizeLinear: (values - zero) * scale in float32, one scale or one along `axis`.
struct Dequantized {
  const Node* node = nullptr;
  std::string name;  // of the convolution's input it is
  const Value *values = nullptr, *scale = nullptr, *zero = nullptr;
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  int64_t axis = 1;

  // Its result, in float64, if it is a constant; `shape` is that of the values.  Throws Refusal if the number of
  // scales or zero points is not what it must be.
  struct Constant {
    std::vector<double> scale, zero;  // one, or one along the axis
    Dims shape;
    int64_t axis;
    std::vector<double> operator()(std::vector<double> values) const;
    // Of weights [C, M/group, ...] the scale of each output channel.  Throws Refusal if there is no such, or if int8
    // does not hold the values less their zero points.
    std::vector<double> channel_scales(const std::vector<double>& values, int64_t group) const;

   private:
    int64_t inner_values() const;                 // that follow each other with one scale
    size_t place(size_t i, int64_t inner) const;  // of the scale of value i
  };
  std::optional<Constant> constant(const Graph& graph) const;
};

// Nothing if `value` does not come from one.  Throws Refusal if it is one of another kind.
std::optional<Dequantized> read_dequantized(const Value* value, const char* name, const Graph& graph);

}  // namespace ort_tconv::provider
