// Winograd's minimal filtering F(m, n): m outputs of an n-tap correlation from m + n - 1 products
// (S. Winograd, Arithmetic Complexity of Computations, 1980), for the short sub-kernels that
// segregation leaves.  All sub-kernels of an axis work on the same tiles of the same input window:
//
//   z(j) = sum_l d(j + l) h(l),  j = 0 .. m-1:   z = At [ (G h) * (Bt d) ]
//
// F(3,2) and F(2,3) use the points 0, 1, -1 and infinity and so share Bt.  A one-tap sub-kernel beside
// longer ones takes its m inputs as they are.
#pragma once

#include <vector>

#include "core/geometry.h"

namespace ort_tconv {

// Linear maps of a few numbers along an axis; kernels apply them to whole vectors, two axes at a time
// (cpu/kernel.h).
enum class LineMap { kCopy, kInput4, kInput3, kOutput32, kOutput23, kOutput22 };
constexpr int kLineMaps = 6;

struct WinogradKind {
  int taps = 1;
  int alpha = 1;  // products, and lines of the transformed input
  int first = 0;  // first line of the tile's input window it reads
  LineMap input = LineMap::kCopy, output = LineMap::kCopy;
  const double* g = nullptr;  // alpha x taps, row by row
};

// How one axis is transformed; or not: a plain axis keeps its taps, which the GEMM sums.
struct WinogradAxis {
  bool plain = true;
  int step = 1;                     // m: domain positions of a tile
  int window = 1;                   // input positions of a tile
  std::vector<WinogradKind> kinds;  // an entry for each tap count that occurs; alpha is 1 on a plain axis
  std::vector<int> kind_of_class;   // parallel to AxisGeometry::classes
  std::vector<int> first_point;     // of each kind, among the axis's points
  int points = 1;                   // alphas together
};

WinogradAxis plain_axis(const AxisGeometry& axis);

// False if the axis has no such form (classes on different windows, or more than 3 taps) or it saves no
// products.
bool winograd_axis(const AxisGeometry& axis, WinogradAxis* out);

}  // namespace ort_tconv
