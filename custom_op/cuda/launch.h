// Puts a plan's kernels on a stream.  Nothing here allocates, synchronises or reads back.
#pragma once

#include "cuda/plan.h"

namespace ort_tconv::cuda {

using Stream = void*;  // a cudaStream_t

struct Operands {
  const void *x = nullptr, *w = nullptr;  // w: packed where the plan packs, else as the model has it
  const void *b = nullptr, *z = nullptr;  // may be null
  void* y = nullptr;
  const float* slopes = nullptr;  // PRelu's, on the device, if there is more than one
  void* workspace = nullptr;      // plan.workspace_bytes
};

// These return null, or the CUDA runtime's text for the error.
const char* pack(const LaunchPlan& plan, const void* w, void* packed, Stream stream);
const char* run(const LaunchPlan& plan, const Problem& problem, const Operands& operands, Stream stream);

// One translation unit each, so that they compile side by side; gemm_launch.cuh defines them.
template <class Math> const char* launch_pack(const LaunchPlan& plan, const PackParams& params, Stream stream);
template <class Math> const char* launch_gemm(const LaunchPlan& plan, const GemmParams& params, Stream stream);

}  // namespace ort_tconv::cuda
