// What a node asks for: attributes as written in the model, and the Problem they make together with
// the shapes of the inputs.  Everything here is checked once, here; later stages rely on it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ort_tconv {

using Dims = std::vector<int64_t>;

// More spatial axes than any model has; it bounds the index arrays that live on the stack.
constexpr int kMaxSpatial = 8;
// The engines keep a table entry for each residue class of outputs, of which a node can declare as many as
// strides and output have room for; real models have at most a few thousand.
constexpr int64_t kMaxResidueClasses = 1 << 18;

enum class AutoPad { kNotSet, kValid, kSameUpper, kSameLower };

enum class ActivationKind {
  kNone,
  kRelu,
  kLeakyRelu,
  kPRelu,
  kClip,
  kSigmoid,
  kTanh,
  kHardSigmoid,
  kHardSwish,
  kSilu,
  kElu,
  kSoftplus,
  kGelu,
  kGeluTanh,
};

// y = f(v; a, b).  PRelu has one slope per output channel (or one for all) in `slopes`.
struct Activation {
  ActivationKind kind = ActivationKind::kNone;
  float a = 0.f;
  float b = 0.f;
  std::vector<float> slopes;
};

// Attributes of ConvTranspose (an empty list means "not given"), plus the epilogue's.
struct Attributes {
  Dims kernel_shape, strides, pads, dilations, output_padding, output_shape;
  std::string auto_pad = "NOTSET";
  int64_t group = 1;
  std::string activation;
  std::vector<float> activation_params;
  std::string algorithm;             // "" or "auto": the plan decides
  std::string weights;               // "" or "float32", "float16", "bfloat16", "int8": how constant weights are kept
  std::vector<float> weight_scales;  // of int8: what an integer stands for, of each output channel or of all
  int64_t allow_tf32 = 1;            // CUDA may round float32 inputs to TensorFloat-32; 0 or 1
};

// How packed weights are kept: in the type that arithmetic is done in, or (float32 only) rounded to 16 bits, or as
// 8-bit multiples of a scale of their output channel.
enum class WeightStorage { kCompute, kFloat16, kBFloat16, kInt8 };
constexpr int kWeightStorages = 4;
const char* name(WeightStorage storage);

// The storage of a name, "" being the type that arithmetic is done in.  Throws Error that calls the text `what`.
WeightStorage parse_weights(const std::string& text, const char* what);

// A complete, consistent transposed convolution:
//   Y[n, m, o] = act(sum X[n, c, i] W[c, m, t] + B[m] + Z[n, m, o]),  o = stride*i + dilation*t - pad_begin.
struct Problem {
  int64_t batch = 0, channels = 0, out_channels = 0, group = 1;
  Dims in, kernel, stride, dilation, pad_begin, pad_end, out;  // one entry a spatial axis
  bool has_bias = false, has_residual = false;
  Activation activation;
  bool constant_weights = true;  // W is known before the first run, and packed once
  WeightStorage weights = WeightStorage::kCompute;
  std::vector<float> weight_scales;  // of kInt8: one, or one for each output channel; empty: the weights decide

  int rank() const { return static_cast<int>(in.size()); }
  int64_t group_in() const { return channels / group; }
  int64_t group_out() const { return out_channels / group; }
  Dims y_shape() const;
  // Residue classes (core/geometry.h) of all axes together, or kMaxResidueClasses + 1 if there are more.
  int64_t residue_classes() const;
};

// Shapes of the inputs of one call; b and z only where the node has them.
struct InputShapes {
  Dims x, w;
  std::optional<Dims> b, z;
};

// Checks everything that needs no shape: values, and that the lists agree on the number of axes.
// Throws Error.
void check_attributes(const Attributes& attributes);

// Checks attributes and shapes against each other and derives pads and the output shape the way stock
// ONNX Runtime's CPU provider does.  Throws Error.
Problem make_problem(const Attributes& attributes, const InputShapes& shapes);

// Parses the activation; `out_channels` < 0 leaves the number of PRelu slopes unchecked.
Activation parse_activation(std::string_view name, const std::vector<float>& params, int64_t out_channels);

// a * b and a + b for sizes; they throw Error ("... overflows") instead of wrapping.
int64_t checked_mul(int64_t a, int64_t b, const char* what);
int64_t checked_add(int64_t a, int64_t b, const char* what);
// Product of all entries; 1 for an empty list.
int64_t element_count(const Dims& dims, const char* what);

}  // namespace ort_tconv
