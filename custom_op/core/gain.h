// What surrounds a plan when it is asked whether a rewrite can win: the cost of moving tensors, in the plan's
// unit, and the sizes to assume where a model leaves them open.
#pragma once

#include "core/plan.h"

namespace ort_tconv {

// Cost of reading or writing so many values, in order or not, in vector multiply-adds.
double moving_cost(double elements, DType dtype, bool shuffled = false);

// Cost of what no direct convolution can do without, given as a transposed one of stride 1 and its direct plan: the
// multiply-adds, of channels that fill whole vectors, and input, weights and output moved once; and where the input is
// unfolded into `columns`, a value for each tap, those written and read.
double least_conv_cost(const Problem& conv, const Plan& direct, DType dtype, bool columns);

// Cost of copying so many values of float32 between ONNX Runtime's blocked layout and the plain one.
double relayout_cost(double elements);

// A plain Conv is rewritten without being timed where that costs less than this share of least_conv_cost and of what
// moves around it.  Of 33 shapes timed alone on a Zen 3, with one thread, some between 0.8 and 0.95 were slower.
constexpr double kSureShare = 0.8;

// Side of an image with so many spatial axes where it is not known.
int64_t nominal_side(int axes);

}  // namespace ort_tconv
