// Constants on their way from a model to the packed weights.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "core/plan.h"
#include "ort/provider/graph.h"

namespace ort_tconv::provider {

// The values of a tensor of floats or integers.  Throws Error for another type.
std::vector<double> to_double(const Tensor& tensor);

// Values rounded to `dtype`, to nearest, ties to even; bfloat16 by way of float32, as the converter does.
std::shared_ptr<const void> rounded(const std::vector<double>& values, DType dtype);

// Throws Refusal if the range of `dtype` does not hold finite values.
void check_range(const std::vector<double>& values, DType dtype, const char* what);

// Throws Refusal if `scale`, one factor for each channel or one for all, leaves too little of the weights that it is
// folded into.  `largest` gives the largest magnitude among those of each channel, and is asked only if need be.
void check_scale(const std::vector<double>& scale, const std::function<std::vector<double>()>& largest, DType dtype);

std::shared_ptr<const void> copy_of(const void* data, int64_t bytes);

}  // namespace ort_tconv::provider
