// What a plan costs: the time it is predicted to take, in multiply-adds of vectors.
#pragma once

#include "core/plan.h"

namespace ort_tconv {

double cost(const Plan& plan, const Machine& machine);

}  // namespace ort_tconv
