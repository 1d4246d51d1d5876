// What the parts of the Python extension share.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <thread>

#include "core/plan.h"
#include "cpu/run.h"

namespace py = pybind11;

namespace ort_tconv {

// Threads of its own: here there is no session whose pool it could use.
class ThreadExecutor final : public Executor {
 public:
  void parallel(int64_t n, const std::function<void(int64_t)>& fn) override {
    std::vector<std::thread> threads;
    for (int64_t i = 1; i < n; ++i) threads.emplace_back(fn, i);
    fn(0);
    for (auto& t : threads) t.join();
  }
  void* allocate(size_t bytes) override {
    void* p = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p) throw std::bad_alloc();
    return p;
  }
  void release(void* p) override { std::free(p); }
};

inline Dims shape_of(const py::array& a) { return Dims(a.shape(), a.shape() + a.ndim()); }

// Keyword arguments shared by every function: the attributes of the node.
Attributes attributes(const py::kwargs& kw);

py::dict describe(const Plan& p, const Problem& problem);

// Adds what quantized.cc has to the module.
void bind_quantized(py::module_& m);

}  // namespace ort_tconv
