// Problem + device -> what to launch: kernel, tile, grid, and the parameters that follow from the shapes.
// Pure host arithmetic of a few microseconds, so a new shape costs nothing worth caching on the device.
#pragma once

#include <string>
#include <vector>

#include "core/plan.h"
#include "cuda/params.h"

namespace ort_tconv::cuda {

struct Device {
  int capability = 80;  // 10 * major + minor
  int multiprocessors = 108;
  int shared_bytes = 163 * 1024;  // of a block, at most
};

// What may be forced, for tests.
struct Options {
  bool allow_tf32 = true;
  std::string kernel;  // "", "gemm" or "direct"
  std::string tile;    // "" or a name in kTiles
  int splits = 0;      // 0: the plan decides
};

enum class Kernel { kGemm, kDirect };

struct TileShape {
  const char* name;  // rows x columns
  int row_tiles, columns, threads;
  int warp_row_tiles, warp_column_tiles;  // 16x8 tiles of a warp
  int blocks_per_multiprocessor;          // that the registers allow
};
constexpr TileShape kTiles[] = {{"128x128", 8, 128, 256, 4, 4, 1},
                                {"64x64", 4, 64, 128, 2, 4, 3},
                                {"16x128", 1, 128, 128, 1, 4, 3},
                                {"128x16", 8, 16, 128, 2, 2, 4}};

struct LaunchPlan {
  Kernel kernel = Kernel::kDirect;
  DType dtype = DType::kFloat32;
  bool tensor_cores = false;
  int tile = 0;  // in kTiles
  int splits = 1;
  int64_t grid[3] = {0, 0, 0};
  int shared_bytes = 0;
  GemmParams gemm{};  // without pointers
  PackParams pack{};
  DirectParams direct{};
  int64_t packed_bytes = 0;     // of packed weights; 0 if the kernel reads them as they are
  int64_t workspace_bytes = 0;  // of split-K's sums
  int64_t y_count = 0;
  double cost = 0;  // predicted cycles of a multiprocessor

  // Plans with equal layouts read the same packed weights.
  std::vector<int64_t> layout() const;
  std::string describe() const;
};

// Throws Error if the sizes are beyond the kernels' 32-bit indices, or something forced is impossible.
LaunchPlan make_launch_plan(const Problem& problem, DType dtype, const Device& device, const Options& options);

}  // namespace ort_tconv::cuda
