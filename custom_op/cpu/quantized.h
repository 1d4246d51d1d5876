// The quantised CPU engine (core/quantized.h has the arithmetic): packs weights once, then runs tile by tile.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/plan.h"
#include "core/quantized.h"
#include "cpu/quantized_kernel.h"
#include "cpu/run.h"

namespace ort_tconv {

// Names of the sets of kernels built into this library, best first; of those that this processor can run; and of
// those whose multiplication is emulated, for tests.
std::vector<std::string> compiled_quantized_isas();
std::vector<std::string> supported_quantized_isas();
std::vector<std::string> emulated_quantized_isas();

// The one named, or for "" the best that needs no more than the instruction set in use (arch.h).  Throws Error
// naming the choices if it is unknown or this processor lacks it.
const QuantizedKernels& quantized_kernels(const std::string& isa = "");

// The one named, or the best that is based on the instruction set named (arch.h), whether or not this processor can
// run it: for plans, not for calls.
const QuantizedKernels& compiled_quantized_kernels(const std::string& isa);

// The machine a plan is made for.  `threads` <= 0: as many as this process may use.
Machine machine(const QuantizedKernels& kernels, int threads = 0);

// How the engine would run.  `algorithm` is "" or "auto", "direct" (lanes are output channels), "stacked" (also those
// of all sub-kernels; direct stands in where these have no equal taps, and `reason` says so), "narrow" (lanes are
// positions along a row) or "winograd" (where words hold 16 bits; direct stands in where there is no such form). Throws
// Error if it is another one.
Plan make_quantized_plan(const Problem& problem, const QuantizedKernels& kernels, const Machine& machine,
                         const std::string& algorithm);

class QuantizedEngine;

// As Prepared (run.h).  Weights are packed without their zero points, which are parameters of each call.
class QuantizedPrepared {
 public:
  QuantizedPrepared(const Problem& problem, QuantizedTypes types, const QuantizedKernels& kernels,
                    const Machine& machine, const std::string& algorithm);
  QuantizedPrepared(QuantizedPrepared&&) noexcept;
  ~QuantizedPrepared();
  const Problem& problem() const;  // simplified
  const Plan& plan() const;
  const std::vector<int64_t>& layout() const;
  std::shared_ptr<const PackedWeights> pack(const void* w) const;
  // X and Y of `tensors` count.  Throws Error or std::bad_alloc; Y is then undefined.
  void run(const PackedWeights& weights, const Requantization& r, const Tensors& tensors, Executor& executor) const;

 private:
  Problem problem_;
  std::unique_ptr<QuantizedEngine> engine_;
};

}  // namespace ort_tconv
