// Launches of gemm.cuh, included by one file an arithmetic.
#pragma once

#include <algorithm>

#include "cuda/gemm.cuh"
#include "cuda/launch.h"

namespace ort_tconv::cuda {

template <class Math, int warps_m, int warps_n, int tiles_m, int tiles_n>
const char* launch_tile(const LaunchPlan& plan, const GemmParams& params, Stream stream) {
  using Shape = Tile<warps_m, warps_n, tiles_m, tiles_n>;
  const TileShape& expected = kTiles[plan.tile];
  if (expected.row_tiles != Shape::kRowTiles || expected.columns != Shape::kColumns ||
      expected.threads != Shape::kThreads)
    return "plan and kernel disagree on the tile";
  return launch(gemm_kernel<Math, Shape>, {plan.grid[0], plan.grid[1], plan.grid[2]}, Shape::kThreads,
                plan.shared_bytes, stream, params);
}

template <class Math> const char* launch_gemm(const LaunchPlan& plan, const GemmParams& params, Stream stream) {
  switch (plan.tile) {
    case 0:
      if constexpr (sizeof(typename Math::Accumulator) == 4) return launch_tile<Math, 2, 4, 4, 4>(plan, params, stream);
      break;
    case 1: return launch_tile<Math, 2, 2, 2, 4>(plan, params, stream);
    case 2: return launch_tile<Math, 1, 4, 1, 4>(plan, params, stream);
    case 3: return launch_tile<Math, 4, 1, 2, 2>(plan, params, stream);
  }
  return "no kernel for the tile of the plan";
}

template <class Math> const char* launch_pack(const LaunchPlan& plan, const PackParams& params, Stream stream) {
  const int64_t items = plan.packed_bytes / 16;
  return launch(pack_kernel<Math>, {std::min<int64_t>((items + 255) / 256, 1 << 16), 1, 1}, 256, 0, stream, params);
}

#define TCONV_INSTANTIATE(Math)                                                         \
  template const char* launch_pack<Math>(const LaunchPlan&, const PackParams&, Stream); \
  template const char* launch_gemm<Math>(const LaunchPlan&, const GemmParams&, Stream)

}  // namespace ort_tconv::cuda
