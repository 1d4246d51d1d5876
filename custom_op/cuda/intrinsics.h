// The few hardware operations the kernels need, in two backends: CUDA, and a host emulation of it.
// Kernels touch memory only through these: global memory by load/store, the block's shared memory by
// byte offset.
#pragma once

#include <cstdint>

#include "cuda/params.h"

namespace ort_tconv::cuda {

struct alignas(16) Vec16 { uint32_t word[4]; };
struct Half { uint16_t bits; };
struct BFloat16 { uint16_t bits; };

}  // namespace ort_tconv::cuda

#ifdef ORT_TCONV_EMULATE
#include "cuda/emulation/intrinsics_emulated.h"
#else
#include "cuda/intrinsics_cuda.cuh"
#endif
