// The CPU engine: packs weights once, then runs a plan tile by tile.
#pragma once

#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#include "core/plan.h"
#include "cpu/kernel.h"

namespace ort_tconv {

// Who runs the tasks and lends the scratch memory; one call's view of the session.
class Executor {
 public:
  virtual ~Executor() = default;
  // Calls fn(0) .. fn(n - 1), in any order, possibly at once; returns when all have returned.  fn does
  // not throw.
  virtual void parallel(int64_t n, const std::function<void(int64_t)>& fn) = 0;
  // Throws std::bad_alloc.
  virtual void* allocate(size_t bytes) = 0;
  virtual void release(void* p) = 0;
};

struct Tensors {  // contiguous, of the operator's dtype; b and z may be null
  const void *x = nullptr, *w = nullptr, *b = nullptr, *z = nullptr;
  void* y = nullptr;
  const float* w_scales = nullptr;  // of each output channel, if its packed weights are multiples of one
};

// Memory of the process, aligned for vectors; large ones in large pages, where the system has them.
struct AlignedBuffer {
  std::unique_ptr<void, decltype(&std::free)> data{nullptr, &std::free};
  size_t bytes = 0;
  explicit AlignedBuffer(size_t bytes);
};

class Engine;

// Of packed weights.
struct Quality {
  bool regular = true;   // no value so large, or not a number, that a transform would spread it
  bool finite = true;    // no NaN or Inf, before a transform or after it, nor beyond the form that they are kept in
  bool complete = true;  // none became 0 that was not
};

// Weights in the order the microkernels read them.  `layout` tells which engines can read them.
struct PackedWeights : Quality {
  std::vector<int64_t> layout;
  AlignedBuffer buffer;
  std::vector<float> scales;  // of each output channel, if they are integers
  PackedWeights(std::vector<int64_t> layout, size_t bytes) : layout(std::move(layout)), buffer(bytes) {}
};

// The same problem, but for taps that meet nothing and strides of axes with a single position.
Problem simplified(const Problem& problem);

// The problem that is planned for: simplified, and with one axis where all have a single position.
Problem normal_form(const Problem& problem);

// Everything that follows from the shapes: plan, residue classes, offsets.  Immutable, so one may serve
// many calls at once.
class Prepared {
 public:
  Prepared(const Problem& problem, DType dtype, const KernelSet& kernels, const Machine& machine,
           const std::string& algorithm);
  // With a plan for normal_form(problem) instead of the cheapest one, for tests and measurements.
  Prepared(const Problem& problem, DType dtype, const KernelSet& kernels, const Plan& plan, int threads);
  Prepared(Prepared&&) noexcept;
  ~Prepared();
  const Problem& problem() const;  // simplified
  const Plan& plan() const;
  // Whether runs may read W beside its packed weights: where it holds NaN or Inf, and where X does, or values nearly
  // too large, and the weights as they are cannot be had from Winograd's.
  bool reads_original(const PackedWeights& packed) const;
  // Two Prepared with equal layouts read the same packed weights.
  const std::vector<int64_t>& layout() const;
  // Throws Error if they do not fit the form they are to be kept in.
  std::shared_ptr<const PackedWeights> pack(const void* w) const;
  // Throws Error or std::bad_alloc; Y is then undefined.
  void run(const PackedWeights& weights, const Tensors& tensors, Executor& executor) const;
  // The same with weights of this call alone, packed by the threads of the executor in its memory.
  void run(const Tensors& tensors, Executor& executor) const;

 private:
  DType dtype_;
  const KernelSet& kernels_;
  Problem problem_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace ort_tconv
