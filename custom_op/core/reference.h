// The oracle: transposed convolution as its definition reads, in float64, for tests and tools.
#pragma once

#include <vector>

#include "core/problem.h"

namespace ort_tconv {

// Arrays are contiguous in the order of their shapes; b and z may be null.  Returns Y.
std::vector<double> reference(const Problem& problem, const double* x, const double* w, const double* b,
                              const double* z);

// f(v) of the activation for output channel m, in double.
double activate(const Activation& activation, double v, int64_t m);

}  // namespace ort_tconv
