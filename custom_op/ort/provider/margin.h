// What a site's input is extended by before the operator reads it.
#pragma once

#include "cpu/run.h"
#include "ort/provider/site.h"

namespace ort_tconv::provider {

// The shape with its margin; open sizes (-1) stay open.
Dims extended(Dims shape, const Site::Margin& margin);

// Writes x, of this shape, with its margin to y.
void extend(const void* x, const Dims& shape, const Site::Margin& margin, DType dtype, void* y, Executor& executor);

}  // namespace ort_tconv::provider
