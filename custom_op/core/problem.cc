#include "core/problem.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/status.h"

namespace ort_tconv {
namespace {

AutoPad parse_auto_pad(const std::string& name) {
  if (name == "NOTSET" || name.empty()) return AutoPad::kNotSet;
  if (name == "VALID") return AutoPad::kValid;
  if (name == "SAME_UPPER") return AutoPad::kSameUpper;
  if (name == "SAME_LOWER") return AutoPad::kSameLower;
  fail("attribute auto_pad = '", name, "': must be NOTSET, VALID, SAME_UPPER or SAME_LOWER");
}

// A list attribute that is given must have `n` entries (or `alt` where that is allowed).
void check_length(const char* name, const Dims& v, size_t n, size_t alt, size_t spatial) {
  if (v.empty() || v.size() == n || v.size() == alt) return;
  fail("attribute ", name, " = ", v, ": has ", v.size(), " entries, must have ", n, " for ", spatial, " spatial axes");
}

void check_each(const char* name, const Dims& v, int64_t least) {
  for (size_t i = 0; i < v.size(); ++i) {
    require(v[i] >= least, "attribute ", name, " = ", v, ": entry ", i, " is ", v[i], ", must be at least ", least);
  }
}

void check_lengths(const Attributes& a, size_t d) {
  check_length("kernel_shape", a.kernel_shape, d, d, d);
  check_length("strides", a.strides, d, d, d);
  check_length("dilations", a.dilations, d, d, d);
  check_length("pads", a.pads, 2 * d, 2 * d, d);
  check_length("output_padding", a.output_padding, d, d, d);
  // ONNX gives spatial sizes; stock ONNX Runtime also takes the whole [N, M, ...] shape.
  check_length("output_shape", a.output_shape, d, d + 2, d);
}

Dims filled(const Dims& v, size_t n, int64_t value) { return v.empty() ? Dims(n, value) : v; }

struct ActivationRule {
  std::string_view name;
  ActivationKind kind;
  int least, most;  // number of parameters
  float a, b;       // their defaults
};

// Names and parameters as in com.microsoft.FusedConv, then the others in the same manner.
constexpr std::array<ActivationRule, 13> kActivations{{
    {"Relu", ActivationKind::kRelu, 0, 0, 0.f, 0.f},
    {"LeakyRelu", ActivationKind::kLeakyRelu, 0, 1, 0.01f, 0.f},
    {"PRelu", ActivationKind::kPRelu, 1, -1, 0.f, 0.f},
    {"Clip", ActivationKind::kClip, 2, 2, 0.f, 0.f},
    {"Sigmoid", ActivationKind::kSigmoid, 0, 0, 0.f, 0.f},
    {"Tanh", ActivationKind::kTanh, 0, 0, 0.f, 0.f},
    {"HardSigmoid", ActivationKind::kHardSigmoid, 0, 2, 0.2f, 0.5f},
    {"HardSwish", ActivationKind::kHardSwish, 0, 0, 0.f, 0.f},
    {"Silu", ActivationKind::kSilu, 0, 0, 0.f, 0.f},
    {"Elu", ActivationKind::kElu, 0, 1, 1.f, 0.f},
    {"Softplus", ActivationKind::kSoftplus, 0, 0, 0.f, 0.f},
    {"Gelu", ActivationKind::kGelu, 0, 0, 0.f, 0.f},
    {"GeluTanh", ActivationKind::kGeluTanh, 0, 0, 0.f, 0.f},
}};

// Pads and output size of one axis, as stock ONNX Runtime's ConvTransposeAttributes derives them.
void resolve_axis(Problem& p, int axis, AutoPad auto_pad, int64_t output_padding, std::optional<int64_t> wanted) {
  const int64_t in = p.in[axis], s = p.stride[axis];
  const int64_t reach =
      checked_add(checked_mul(p.kernel[axis] - 1, p.dilation[axis], "(kernel - 1) * dilation"), 1, "kernel reach");
  const int64_t full =
      checked_add(checked_add(checked_mul(in - 1, s, "(input size - 1) * stride"), output_padding, "output size"),
                  reach, "output size");
  const bool same = auto_pad == AutoPad::kSameUpper || auto_pad == AutoPad::kSameLower;
  if (wanted || same) {
    const int64_t target = wanted ? *wanted : checked_mul(in, s, "input size * stride");
    const int64_t total = std::max<int64_t>(0, full - target);
    const int64_t smaller = total / 2, larger = total - smaller;
    // Everything but SAME_UPPER puts the odd element at the beginning.
    p.pad_begin[axis] = auto_pad == AutoPad::kSameUpper ? smaller : larger;
    p.pad_end[axis] = total - p.pad_begin[axis];
  }
  p.out[axis] =
      wanted ? *wanted : checked_add(full, -checked_add(p.pad_begin[axis], p.pad_end[axis], "pads"), "output size");
  require(p.out[axis] >= 1, "the output size of spatial axis ", axis, " would be ", p.out[axis], ": input ", in,
          ", stride ", s, ", kernel ", p.kernel[axis], ", dilation ", p.dilation[axis], ", output_padding ",
          output_padding, ", pads ", p.pad_begin[axis], " and ", p.pad_end[axis], "; it must be at least 1");
}

// Every index and size that later stages form is smaller than this product, empty tensors included; with
// room for 8 bytes an element and for rounding up to tiles, it fits into 64 bits.
void check_size(const Problem& p) {
  const auto at_least_one = [](int64_t v) { return std::max<int64_t>(1, v); };
  checked_mul(element_count(p.y_shape(), "output size"), 8, "output size in bytes");
  double size = static_cast<double>(at_least_one(p.batch)) *
                (static_cast<double>(at_least_one(p.channels)) + static_cast<double>(at_least_one(p.out_channels)));
  for (int i = 0; i < p.rank(); ++i) {
    const double stride = static_cast<double>(p.stride[i]), dilation = static_cast<double>(p.dilation[i]);
    size *= static_cast<double>(at_least_one(p.in[i])) * stride + static_cast<double>(p.kernel[i]) * dilation +
            static_cast<double>(p.out[i]);
  }
  require(size < 0x1p56, "sizes overflow: X ", p.batch, " x ", p.channels, " x ", p.in, ", Y ", p.y_shape(),
          ", kernel ", p.kernel, ", strides ", p.stride, ", dilations ", p.dilation);
  require(p.residue_classes() <= kMaxResidueClasses, "attribute strides = ", p.stride, ": outputs ", p.out,
          " fall into more than ", kMaxResidueClasses, " residue classes, which is not supported");
}

}  // namespace

const char* name(WeightStorage storage) {
  switch (storage) {
    case WeightStorage::kCompute: return "float32";
    case WeightStorage::kFloat16: return "float16";
    case WeightStorage::kBFloat16: return "bfloat16";
    case WeightStorage::kInt8: return "int8";
  }
  return "?";
}

WeightStorage parse_weights(const std::string& text, const char* what) {
  if (text.empty()) return WeightStorage::kCompute;
  std::string known;
  for (int i = 0; i < kWeightStorages; ++i) {
    const auto storage = static_cast<WeightStorage>(i);
    if (text == name(storage)) return storage;
    known += concat(i ? ", " : "", name(storage));
  }
  fail(what, " weights = '", text, "': must be one of ", known);
}

int64_t checked_mul(int64_t a, int64_t b, const char* what) {
  int64_t r;
  require(!__builtin_mul_overflow(a, b, &r), what, " overflows: ", a, " * ", b);
  return r;
}

int64_t checked_add(int64_t a, int64_t b, const char* what) {
  int64_t r;
  require(!__builtin_add_overflow(a, b, &r), what, " overflows: ", a, " + ", b);
  return r;
}

int64_t element_count(const Dims& dims, const char* what) {
  if (std::find(dims.begin(), dims.end(), 0) != dims.end()) return 0;
  int64_t n = 1;
  for (int64_t v : dims) n = checked_mul(n, v, what);
  return n;
}

Dims Problem::y_shape() const {
  Dims y{batch, out_channels};
  y.insert(y.end(), out.begin(), out.end());
  return y;
}

int64_t Problem::residue_classes() const {
  int64_t n = 1;
  for (int i = 0; i < rank(); ++i)  // both factors are small enough when they are multiplied
    n = std::min(n * std::min(std::min(stride[i], out[i]), kMaxResidueClasses + 1), kMaxResidueClasses + 1);
  return n;
}

Activation parse_activation(std::string_view name, const std::vector<float>& params, int64_t out_channels) {
  Activation act;
  if (name.empty()) {
    require(params.empty(), "attribute activation_params has ", params.size(), " entries but activation is not given");
    return act;
  }
  const auto* rule =
      std::find_if(kActivations.begin(), kActivations.end(), [&](const ActivationRule& r) { return r.name == name; });
  if (rule == kActivations.end()) {
    std::string known;
    for (const auto& r : kActivations) known += (known.empty() ? "" : ", ") + std::string(r.name);
    fail("attribute activation = '", name, "': must be one of ", known);
  }
  const int n = static_cast<int>(params.size());
  require(n >= rule->least && (rule->most < 0 || n <= rule->most), "attribute activation_params has ", n,
          " entries, activation ", name, " takes ", rule->least,
          rule->most < 0 ? concat(" or more") : concat(" to ", rule->most));
  act.kind = rule->kind;
  act.a = rule->most > 0 && n > 0 ? params[0] : rule->a;
  act.b = rule->most > 1 && n > 1 ? params[1] : rule->b;
  if (act.kind == ActivationKind::kPRelu) {
    require(out_channels < 0 || n == 1 || n == out_channels, "attribute activation_params has ", n,
            " entries, PRelu takes 1 or one for each of the ", out_channels, " output channels");
    act.slopes = params;
  }
  return act;
}

void check_attributes(const Attributes& a) {
  parse_auto_pad(a.auto_pad);
  require(a.group > 0, "attribute group = ", a.group, ": must be at least 1");
  check_each("kernel_shape", a.kernel_shape, 1);
  check_each("strides", a.strides, 1);
  check_each("dilations", a.dilations, 1);
  check_each("pads", a.pads, 0);
  check_each("output_padding", a.output_padding, 0);
  check_each("output_shape", a.output_shape, 0);
  require(a.allow_tf32 == 0 || a.allow_tf32 == 1, "attribute allow_tf32 = ", a.allow_tf32, ": must be 0 or 1");
  parse_activation(a.activation, a.activation_params, -1);
  const WeightStorage weights = parse_weights(a.weights, "attribute");
  require(a.weight_scales.empty() || weights == WeightStorage::kInt8, "attribute weight_scales has ",
          a.weight_scales.size(), " entries, and attribute weights is '", name(weights),
          "': only those kept as int8 have scales");
  for (size_t i = 0; i < a.weight_scales.size(); ++i)
    require(std::isfinite(a.weight_scales[i]), "attribute weight_scales: entry ", i, " is ", a.weight_scales[i],
            ", must be finite");
  // The first list that fixes the number of spatial axes fixes it for the others.
  for (const Dims* v : {&a.kernel_shape, &a.strides, &a.dilations, &a.output_padding}) {
    if (!v->empty()) {
      check_lengths(a, v->size());
      break;
    }
  }
  const bool padded = std::any_of(a.pads.begin(), a.pads.end(), [](int64_t pad) { return pad != 0; });
  require(!padded || parse_auto_pad(a.auto_pad) == AutoPad::kNotSet, "attributes auto_pad = '", a.auto_pad,
          "' and pads = ", a.pads, ": auto_pad other than NOTSET leaves no room for explicit pads");
  require(a.pads.size() % 2 == 0, "attribute pads = ", a.pads, ": has ", a.pads.size(),
          " entries, must have two for each spatial axis");
  for (size_t i = 0; i < a.output_padding.size(); ++i) {
    const int64_t s = a.strides.empty() ? 1 : a.strides[i], dil = a.dilations.empty() ? 1 : a.dilations[i];
    require(a.output_padding[i] < std::max(s, dil), "attribute output_padding = ", a.output_padding, ": entry ", i,
            " is ", a.output_padding[i], ", must be smaller than max(stride, dilation) = ", std::max(s, dil));
  }
}

Problem make_problem(const Attributes& a, const InputShapes& shapes) {
  check_attributes(a);
  const Dims &x = shapes.x, &w = shapes.w;
  require(x.size() >= 3, "input X has shape ", x, ": must have rank 3 or more, [N, C, D1, ...]");
  require(x.size() <= 2 + kMaxSpatial, "input X has shape ", x, ": at most ", kMaxSpatial,
          " spatial axes are supported");
  require(w.size() == x.size(), "input W has shape ", w, " (rank ", w.size(), "): must have the rank of X, which is ",
          x.size());
  const size_t d = x.size() - 2;
  check_lengths(a, d);

  Problem p;
  p.batch = x[0];
  p.channels = x[1];
  p.group = a.group;
  p.in.assign(x.begin() + 2, x.end());
  p.kernel.assign(w.begin() + 2, w.end());
  require(w[0] == p.channels, "input W has shape ", w, ": its first dimension must be the number of channels of X, ",
          p.channels, " (X has shape ", x, ")");
  require(p.channels % p.group == 0, "attribute group = ", p.group, ": must divide the number of channels of X, ",
          p.channels);
  p.out_channels = checked_mul(w[1], p.group, "number of output channels");
  for (size_t i = 0; i < d; ++i) {
    require(p.kernel[i] > 0, "input W has shape ", w, ": kernel sizes must be at least 1");
  }
  require(a.kernel_shape.empty() || a.kernel_shape == p.kernel, "attribute kernel_shape = ", a.kernel_shape,
          ": must equal the spatial shape of W, ", p.kernel);
  p.stride = filled(a.strides, d, 1);
  p.dilation = filled(a.dilations, d, 1);
  const Dims output_padding = filled(a.output_padding, d, 0);
  const AutoPad auto_pad = parse_auto_pad(a.auto_pad);
  const Dims pads = filled(a.pads, 2 * d, 0);
  p.pad_begin.assign(pads.begin(), pads.begin() + d);
  p.pad_end.assign(pads.begin() + d, pads.end());
  p.out.resize(d);
  for (size_t i = 0; i < d; ++i) {
    std::optional<int64_t> wanted;
    if (!a.output_shape.empty()) {
      wanted = a.output_shape[a.output_shape.size() - d + i];
      require(*wanted >= 1, "attribute output_shape = ", a.output_shape, ": the size of spatial axis ", i, " is ",
              *wanted, ", must be at least 1");
    }
    resolve_axis(p, static_cast<int>(i), auto_pad, output_padding[i], wanted);
  }
  check_size(p);

  if (shapes.b) {
    p.has_bias = true;
    require(*shapes.b == Dims{p.out_channels}, "input B has shape ", *shapes.b, ": must be [", p.out_channels,
            "], one value for each output channel");
  }
  if (shapes.z) {
    p.has_residual = true;
    require(*shapes.z == p.y_shape(), "input Z has shape ", *shapes.z, ": must have the shape of the output, ",
            p.y_shape());
  }
  p.activation = parse_activation(a.activation, a.activation_params, p.out_channels);
  p.weights = parse_weights(a.weights, "attribute");
  const auto scales = static_cast<int64_t>(a.weight_scales.size());
  require(scales <= 1 || scales == p.out_channels, "attribute weight_scales has ", scales,
          " entries, must have 1 or one for each of the ", p.out_channels, " output channels");
  p.weight_scales = a.weight_scales;
  return p;
}

}  // namespace ort_tconv
