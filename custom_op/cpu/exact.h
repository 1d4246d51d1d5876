// The method by its definition, for weights that hold NaN or Inf: the engines would multiply these with
// the zeros around the input, too, and so spread them to outputs that they do not reach.
#pragma once

#include "core/plan.h"
#include "cpu/run.h"

namespace ort_tconv {

// Whether no value is NaN or Inf.
bool all_finite(DType dtype, const void* values, int64_t n);

// Y from the original weights, tap by tap.  Slow; no scratch memory beyond the stack.
void run_by_definition(const Problem& problem, DType dtype, const KernelSet& kernels, const Tensors& tensors,
                       Executor& executor);

}  // namespace ort_tconv
