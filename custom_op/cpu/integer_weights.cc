#include "cpu/integer_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/geometry.h"
#include "core/integers.h"
#include "core/status.h"

namespace ort_tconv {
namespace {

// The largest magnitude in each output channel.  Of finite numbers, bits tell which is larger.
std::vector<float> largest(const Problem& p, const float* w) {
  const int64_t cg = p.group_in(), mg = p.group_out(), taps = product(p.kernel), row = mg * taps;
  std::vector<float> result(static_cast<size_t>(p.out_channels));
  std::vector<int32_t> most(static_cast<size_t>(row));
  for (int64_t g = 0; g < p.group; ++g) {
    std::fill(most.begin(), most.end(), 0);
    for (int64_t c = g * cg; c < (g + 1) * cg; ++c)
      for (int64_t i = 0; i < row; ++i) {
        int32_t bits;
        std::memcpy(&bits, w + c * row + i, sizeof bits);
        most[i] = std::max(most[i], bits & 0x7FFFFFFF);
      }
    for (int64_t m = 0; m < mg; ++m)
      std::memcpy(&result[g * mg + m], &*std::max_element(most.begin() + m * taps, most.begin() + (m + 1) * taps),
                  sizeof(float));
  }
  return result;
}

// A scale that is rounded down, which matters if it is subnormal, would leave the largest weight out of reach.
float scale_for(float most) {
  const float scale = most / 127;
  return 127.0 * scale < most ? std::nextafter(scale, std::numeric_limits<float>::infinity()) : scale;
}

}  // namespace

IntegerWeights integer_weights(const Problem& p, const float* w) {
  const int64_t cg = p.group_in(), mg = p.group_out(), taps = product(p.kernel), row = mg * taps;
  IntegerWeights result{{}, AlignedBuffer(static_cast<size_t>(p.channels * row) * sizeof(float))};
  float* const values = static_cast<float*>(result.values.data.get());
  const bool given = !p.weight_scales.empty();
  if (given) {
    result.scales = p.weight_scales;
    result.scales.resize(static_cast<size_t>(p.out_channels), p.weight_scales[0]);
  } else {
    result.scales = largest(p, w);
    for (float& scale : result.scales) scale = scale_for(scale);
  }
  std::vector<float> divisors(static_cast<size_t>(row));
  for (int64_t g = 0; g < p.group; ++g) {
    for (int64_t i = 0; i < row; ++i) {
      const float scale = result.scales[g * mg + i / taps];
      divisors[i] = scale == 0 ? 1 : scale;
    }
    for (int64_t c = g * cg; c < (g + 1) * cg; ++c) {
      const float* const from = w + c * row;
      float* const to = values + c * row;
      constexpr float kRound = 0x1.8p23f;  // has no bits for fractions: adding it rounds all that are small
      for (int64_t i = 0; i < row; ++i) to[i] = (from[i] / divisors[i] + kRound) - kRound;
      for (int64_t i = 0; given && i < row; ++i) {
        const float scale = result.scales[g * mg + i / taps];
        require(to[i] >= -128 && to[i] <= 127 && (scale != 0 || from[i] == 0), "input W has the value ", from[i],
                " in output channel ", g * mg + i / taps, ", where attribute weight_scales is ", scale,
                ": must be -128 to 127 times that");
      }
    }
  }
  return result;
}

}  // namespace ort_tconv
