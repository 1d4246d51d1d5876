// What the parts of the Python extension share.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "core/plan.h"
#include "cpu/thread_executor.h"

namespace py = pybind11;

namespace ort_tconv {

inline Dims shape_of(const py::array& a) { return Dims(a.shape(), a.shape() + a.ndim()); }

// Keyword arguments shared by every function: the attributes of the node.
Attributes attributes(const py::kwargs& kw);

py::dict describe(const Plan& p, const Problem& problem);

// Adds what quantized.cc has to the module.
void bind_quantized(py::module_& m);

}  // namespace ort_tconv
