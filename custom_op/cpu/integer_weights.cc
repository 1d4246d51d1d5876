#include "cpu/integer_weights.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/geometry.h"
#include "core/integers.h"
#include "core/status.h"

namespace ort_tconv {
namespace {

// Calls f(output channel, its first weight of an input channel, how many follow) for all weights in their order.
template <class F>
void each_run(const Problem& p, F f) {
  const int64_t cg = p.group_in(), mg = p.group_out(), taps = product(p.kernel);
  for (int64_t c = 0, at = 0; c < p.channels; ++c)
    for (int64_t j = 0; j < mg; ++j, at += taps) f(c / cg * mg + j, at, taps);
}

std::vector<float> largest(const Problem& p, const float* w) {
  std::vector<float> most(static_cast<size_t>(p.out_channels));
  each_run(p, [&](int64_t m, int64_t at, int64_t n) {
    for (int64_t i = at; i < at + n; ++i) most[m] = std::max(most[m], std::abs(w[i]));
  });
  return most;
}

// A scale that is rounded down, which matters if it is subnormal, would leave the largest weight out of reach.
float scale_for(float most) {
  const float scale = most / 127;
  return 127.0 * scale < most ? std::nextafter(scale, std::numeric_limits<float>::infinity()) : scale;
}

}  // namespace

IntegerWeights integer_weights(const Problem& p, const float* w) {
  IntegerWeights result;
  result.values.resize(static_cast<size_t>(p.channels * p.group_out() * product(p.kernel)));
  const bool given = !p.weight_scales.empty();
  if (given) {
    result.scales = p.weight_scales;
    result.scales.resize(static_cast<size_t>(p.out_channels), p.weight_scales[0]);
  } else {
    result.scales = largest(p, w);
    for (float& scale : result.scales) scale = scale_for(scale);
  }
  each_run(p, [&](int64_t m, int64_t at, int64_t n) {
    const float scale = result.scales[m], divisor = scale == 0 ? 1 : scale;
    constexpr float kRound = 0x1.8p23f;  // has no bits for fractions: adding it rounds
    for (int64_t i = at; i < at + n; ++i) {
      const float quotient = std::clamp(w[i] / divisor, -256.f, 256.f);
      result.values[i] = (quotient + kRound) - kRound;
    }
    if (!given) return;
    for (int64_t i = at; i < at + n; ++i)
      require(result.values[i] >= -128 && result.values[i] <= 127 && (scale != 0 || w[i] == 0),
              "input W has the value ", w[i], " in output channel ", m, ", where attribute weight_scales is ", scale,
              ": must be -128 to 127 times that");
  });
  return result;
}

}  // namespace ort_tconv
