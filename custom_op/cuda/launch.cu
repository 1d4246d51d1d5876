#include "cuda/launch.h"

#include <algorithm>

#include "cuda/direct.cuh"
#include "cuda/gemm.cuh"

namespace ort_tconv::cuda {

// In files of their own.
#define TCONV_ELSEWHERE(Math)                                                                  \
  extern template const char* launch_pack<Math>(const LaunchPlan&, const PackParams&, Stream); \
  extern template const char* launch_gemm<Math>(const LaunchPlan&, const GemmParams&, Stream)
TCONV_ELSEWHERE(TensorCores<Half>);
TCONV_ELSEWHERE(TensorCores<BFloat16>);
TCONV_ELSEWHERE(TensorCores<float>);
TCONV_ELSEWHERE(CudaCores<float>);
TCONV_ELSEWHERE(CudaCores<double>);

namespace {

// Calls fn with the arithmetic of the plan.
template <class Fn> const char* with_math(const LaunchPlan& plan, Fn fn) {
  switch (plan.dtype) {
    case DType::kFloat16: return fn(TensorCores<Half>());
    case DType::kBFloat16: return fn(TensorCores<BFloat16>());
    case DType::kFloat32: return plan.tensor_cores ? fn(TensorCores<float>()) : fn(CudaCores<float>());
    case DType::kFloat64: return fn(CudaCores<double>());
  }
  return "unknown element type";
}

template <class T, class A> const char* launch_direct(const LaunchPlan& plan, const Problem& p, const DirectParams& k,
                                                      Stream stream) {
  const Grid grid{plan.grid[0], plan.grid[1], plan.grid[2]};
  const bool many = k.group_out > 1;
  if (p.rank() <= 3)
    return many ? launch(direct_kernel<T, A, 3, 4>, grid, 256, 0, stream, k)
                : launch(direct_kernel<T, A, 3, 1>, grid, 256, 0, stream, k);
  return many ? launch(direct_kernel<T, A, kMaxSpatial, 4>, grid, 256, 0, stream, k)
              : launch(direct_kernel<T, A, kMaxSpatial, 1>, grid, 256, 0, stream, k);
}

template <class T, class A> const char* reduce(const ReduceParams& params, Stream stream) {
  const int64_t blocks = std::min<int64_t>((params.count + 255) / 256, 1 << 16);
  return launch(reduce_kernel<T, A>, {blocks, 1, 1}, 256, 0, stream, params);
}

bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace

const char* pack(const LaunchPlan& plan, const void* w, void* packed, Stream stream) {
  if (plan.packed_bytes == 0) return nullptr;
  PackParams params = plan.pack;
  params.w = w, params.packed = packed;
  return with_math(plan, [&](auto math) { return launch_pack<decltype(math)>(plan, params, stream); });
}

const char* run(const LaunchPlan& plan, const Problem& problem, const Operands& operands, Stream stream) {
  if (plan.y_count == 0) return nullptr;
  const Activation& act = problem.activation;
  const bool one_slope = act.kind == ActivationKind::kPRelu && act.slopes.size() == 1;
  const Epilogue epilogue{operands.b, operands.z, operands.slopes, act.kind, one_slope ? act.slopes[0] : act.a, act.b};
  if (plan.kernel == Kernel::kDirect) {
    DirectParams params = plan.direct;
    params.x = operands.x, params.w = operands.w, params.y = operands.y;
    params.epilogue = epilogue;
    switch (plan.dtype) {
      case DType::kFloat32: return launch_direct<float, float>(plan, problem, params, stream);
      case DType::kFloat64: return launch_direct<double, double>(plan, problem, params, stream);
      case DType::kFloat16: return launch_direct<Half, float>(plan, problem, params, stream);
      case DType::kBFloat16: return launch_direct<BFloat16, float>(plan, problem, params, stream);
    }
    return "unknown element type";
  }
  GemmParams params = plan.gemm;
  params.x = operands.x, params.w = operands.w, params.y = operands.y;
  params.partial = plan.splits > 1 ? operands.workspace : nullptr;
  params.epilogue = epilogue;
  params.vector_stores = plan.splits > 1 || (aligned(operands.y) && aligned(operands.z));
  if (const char* error = with_math(plan, [&](auto math) { return launch_gemm<decltype(math)>(plan, params, stream); }))
    return error;
  if (plan.splits == 1) return nullptr;
  const ReduceParams parts{operands.workspace,    operands.y,          epilogue,
                           plan.splits,           params.out_channels, plan.y_count,
                           params.partial_stride, params.out_plane};
  switch (plan.dtype) {
    case DType::kFloat32: return reduce<float, float>(parts, stream);
    case DType::kFloat64: return reduce<double, double>(parts, stream);
    case DType::kFloat16: return reduce<Half, float>(parts, stream);
    case DType::kBFloat16: return reduce<BFloat16, float>(parts, stream);
  }
  return "unknown element type";
}

}  // namespace ort_tconv::cuda
