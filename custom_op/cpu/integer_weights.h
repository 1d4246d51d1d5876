// Constant float32 weights as multiples of a scale of their output channel that fit into 8 bits.
#pragma once

#include <vector>

#include "core/problem.h"
#include "cpu/run.h"

namespace ort_tconv {

struct IntegerWeights {
  std::vector<float> scales;  // of each output channel
  AlignedBuffer values;       // float32, -128 .. 127, in the order of the weights
};

// Rounds w / scale to nearest, ties to even.  The scales are the problem's; if it has none, that of a channel is its
// largest weight divided by 127, which no weight then exceeds.  `w` is finite.  Throws Error for a weight that is out
// of the reach of the problem's scales.
IntegerWeights integer_weights(const Problem& problem, const float* w);

}  // namespace ort_tconv
