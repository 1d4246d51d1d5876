#include "cuda/gemm_launch.cuh"

namespace ort_tconv::cuda {
TCONV_INSTANTIATE(TensorCores<BFloat16>);
}
