// The plans that a problem could run by: each algorithm with each choice of axes and each way to share out the
// work.  Which of them is the fastest is for cost.h to say.
#pragma once

#include <vector>

#include "core/plan.h"

namespace ort_tconv {

// Never empty, in a fixed order; costs and reasons are not set.
std::vector<Plan> candidates(const Problem& problem, DType dtype, const Machine& machine);

}  // namespace ort_tconv
