// What the microkernels' matrix products take, for plans and for engines that cut products into parts.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/integers.h"
#include "core/matrix_product.h"

namespace ort_tconv {

constexpr int64_t kAccumulators = 8;  // that keep the multipliers busy

// In multiply-adds of a vector, what a block of a product takes for each input channel: as long as its multiply-adds,
// its loads, or the time for which a multiply-add keeps its accumulator.
constexpr int64_t block_time(int64_t pixels, int64_t vectors) {
  return std::max({pixels * vectors, pixels + vectors, ceil_div(kAccumulators, sums_apart(pixels, vectors))});
}

// The same of n pixels, which are cut into blocks of `most`, and what is left into one or two of nearly equal size.
constexpr int64_t product_time(int64_t n, int64_t vectors, int64_t most) {
  const int64_t full = n < most ? 0 : n % most == 0 ? n / most : n / most - 1, rest = n - full * most;
  int64_t time = full * block_time(most, vectors);
  if (rest > most) time += block_time((rest + 1) / 2, vectors) + block_time(rest / 2, vectors);
  else if (rest > 0) time += block_time(rest, vectors);
  return time;
}

}  // namespace ort_tconv
