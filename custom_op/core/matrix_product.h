// What plans and microkernels agree on about matrix products.
#pragma once

#include <cstdint>

namespace ort_tconv {

// How many sums a product of so many pixels and vectors of output channels keeps for each result, of alternate input
// channels: a multiply-add's result comes some cycles later, and until then others have to start.
constexpr int64_t sums_apart(int64_t pixels, int64_t vectors) {
  const int64_t sums = pixels * vectors;
  return sums >= 6 ? 1 : sums >= 3 ? 2 : 4;
}

}  // namespace ort_tconv
