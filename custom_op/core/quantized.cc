#include "core/quantized.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/definition.h"
#include "core/status.h"

namespace ort_tconv {
namespace {

// One value for each output channel, from one for all, for each, or for each of a group.
template <class T>
std::vector<T> for_each_channel(const Problem& p, const std::vector<T>& values, const char* what) {
  const int64_t n = static_cast<int64_t>(values.size()), m = p.out_channels, mg = p.group_out();
  require(n == 1 || n == m || n == mg, "input ", what, " has ", n, " values: must have 1, or one for each of the ", m,
          " output channels", p.group > 1 ? concat(" or for each of the ", mg, " of a group") : "");
  std::vector<T> all(static_cast<size_t>(m));
  for (int64_t i = 0; i < m; ++i) all[i] = values[n == 1 ? 0 : i % n];
  return all;
}

void check_zero(const char* what, QuantizedType type, int32_t v) {
  const int32_t least = type == QuantizedType::kUint8 ? 0 : -128;
  require(v >= least && v <= least + 255, "input ", what, " = ", v, ": must be a value of ", name(type));
}

int32_t element(QuantizedType type, const void* values, int64_t i) {
  return type == QuantizedType::kUint8 ? static_cast<const uint8_t*>(values)[i] : static_cast<const int8_t*>(values)[i];
}

}  // namespace

const char* name(QuantizedType type) {
  switch (type) {
    case QuantizedType::kUint8: return "uint8";
    case QuantizedType::kInt8: return "int8";
    case QuantizedType::kFloat32: return "float32";
  }
  return "?";
}

void check_quantized_activation(const Activation& a) {
  require(a.kind == ActivationKind::kNone || a.kind == ActivationKind::kRelu || a.kind == ActivationKind::kClip,
          "attribute activation: of a quantised convolution it must be Relu or Clip, which are exact in integers");
  require(a.kind != ActivationKind::kClip || a.a <= a.b, "attribute activation_params = [", a.a, ", ", a.b,
          "]: the bounds of Clip must be numbers, the lower one first");
}

Requantization requantization(const Problem& p, QuantizedTypes types, const Quantization& q) {
  const auto positive = [](float v) { return v > 0 && std::isfinite(v); };
  require(positive(q.x_scale), "input x_scale = ", q.x_scale, ": must be positive and finite");
  require(positive(q.y_scale), "input y_scale = ", q.y_scale, ": must be positive and finite");
  check_zero("x_zero_point", types.x, q.x_zero);
  const bool is_float = types.y == QuantizedType::kFloat32;
  if (is_float) {
    require(q.y_scale == 1.f && q.y_zero == 0, "input y_scale = ", q.y_scale, " and y_zero_point = ", q.y_zero,
            ": must be 1 and 0 for a float32 output, which is not quantised");
  } else {
    check_zero("y_zero_point", types.y, q.y_zero);
  }
  check_quantized_activation(p.activation);

  Requantization r;
  r.x_zero = q.x_zero;
  r.y_zero = q.y_zero;
  r.multiplier = for_each_channel(p, q.w_scale, "w_scale");
  r.w_zero = for_each_channel(p, q.w_zero, "w_zero_point");
  for (int32_t v : q.w_zero) check_zero("w_zero_point", types.w, v);
  for (size_t m = 0; m < r.multiplier.size(); ++m) {
    const float w_scale = r.multiplier[m];
    require(std::isfinite(w_scale), "input w_scale: entry ", m, " is ", w_scale, ", must be finite");
    r.multiplier[m] = q.x_scale * w_scale / q.y_scale;
    require(std::isfinite(r.multiplier[m]), "input w_scale: entry ", m, " is ", w_scale,
            ", and with x_scale = ", q.x_scale, " and y_scale = ", q.y_scale,
            " the ratio x_scale * w_scale / y_scale overflows");
  }
  const size_t channels = static_cast<size_t>(p.out_channels);
  require(q.bias.empty() || q.bias.size() == channels, "input B has ", q.bias.size(), " values: must have ", channels);
  require(q.float_bias.empty() || q.float_bias.size() == channels, "input B has ", q.float_bias.size(),
          " values: must have ", channels);
  r.bias = q.bias.empty() ? std::vector<int32_t>(channels, 0) : q.bias;
  r.offset.assign(channels, 0.f);
  for (size_t m = 0; m < q.float_bias.size(); ++m) {
    r.offset[m] = q.float_bias[m] / q.y_scale;
    require(std::isfinite(r.offset[m]), "input B: entry ", m, " is ", q.float_bias[m],
            ", must be finite, in units of y_scale too");
  }

  // Bounds of v = (y - y_zero), or of y itself if it is not quantised.
  const float infinity = std::numeric_limits<float>::infinity();
  const float least = types.y == QuantizedType::kUint8 ? 0.f : -128.f;
  r.low = is_float ? -infinity : least - static_cast<float>(q.y_zero);
  r.high = is_float ? infinity : r.low + 255.f;
  const auto bound = [&](float v) {
    v /= q.y_scale;
    return is_float ? v : std::clamp(std::nearbyint(v), r.low, r.high);
  };
  if (p.activation.kind == ActivationKind::kRelu) r.low = bound(0.f);
  if (p.activation.kind == ActivationKind::kClip) {
    const float low = bound(p.activation.a), high = bound(p.activation.b);
    r.low = low, r.high = high;
  }
  return r;
}

void quantized_reference(const Problem& p, QuantizedTypes types, const Requantization& r, const void* x, const void* w,
                         void* y) {
  const int64_t out = product(p.out);
  // Unsigned, as sums may wrap.
  std::vector<uint32_t> sums(static_cast<size_t>(p.batch * p.out_channels * out), 0);
  for_each_product(p, [&](int64_t ix, int64_t iw, int64_t iy, int64_t m) {
    const int32_t v = element(types.x, x, ix) - r.x_zero, k = element(types.w, w, iw) - r.w_zero[m];
    sums[iy] += static_cast<uint32_t>(v * k);
  });
  for (int64_t i = 0; i < static_cast<int64_t>(sums.size()); ++i) {
    const int64_t m = i / out % p.out_channels;
    const float sum = static_cast<float>(static_cast<int32_t>(sums[i] + static_cast<uint32_t>(r.bias[m])));
    const float scaled = sum * r.multiplier[m];
    const float v = std::min(std::max(scaled + r.offset[m], r.low), r.high);
    if (types.y == QuantizedType::kFloat32) static_cast<float*>(y)[i] = v;
    else static_cast<uint8_t*>(y)[i] = static_cast<uint8_t>(static_cast<int32_t>(std::nearbyint(v)) + r.y_zero);
  }
}

}  // namespace ort_tconv
