// Which instruction sets there are, which this processor has, and which one is in use.
#pragma once

#include <string>
#include <vector>

#include "core/plan.h"
#include "cpu/kernel.h"
#include "cpu/machine.h"

namespace ort_tconv {

// Instruction sets built into this library, best first.
std::vector<std::string> compiled_isas();

// Those of them that this processor can run, best first.
std::vector<std::string> supported_isas();

// Other shapes of kernels that this processor can run, for tests: used only when named.
std::vector<std::string> emulated_isas();

// The one named, or for "" the one in the environment variable ORT_TCONV_ISA, or else the best.
// Throws Error naming the choices if it is unknown or this processor lacks it.
const KernelSet& kernel_set(const std::string& isa = "");

// The one named, whether or not this processor can run it: for plans, not for calls.
const KernelSet& compiled_kernel_set(const std::string& isa);

// The machine a plan is made for.  `threads` <= 0: as many as this process may use.
Machine machine(const KernelSet& set, int threads = 0);
Machine machine(const KernelSet& set, const Resources& resources);

}  // namespace ort_tconv
