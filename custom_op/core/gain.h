// What surrounds a plan when it is asked whether a rewrite can win: the cost of moving tensors, in the plan's
// unit, and the sizes to assume where a model leaves them open.
#pragma once

#include "core/plan.h"

namespace ort_tconv {

// Cost of reading or writing so many values, in order or not, in vector multiply-adds.
double moving_cost(double elements, DType dtype, bool shuffled = false);

// Side of an image with so many spatial axes where it is not known.
int64_t nominal_side(int axes);

}  // namespace ort_tconv
