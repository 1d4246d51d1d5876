// Winograd's minimal filtering F(m, n): m outputs of an n-tap correlation from m + n - 1 products
// (S. Winograd, Arithmetic Complexity of Computations, 1980), for the short sub-kernels that
// segregation leaves.  All sub-kernels of an axis work on the same tiles of the same input window:
//
//   z(j) = sum_l d(j + l) h(l),  j = 0 .. m-1:   z = At [ (G h) * (Bt d) ]
//
// F(3,2) and F(2,3) use the points 0, 1, -1 and infinity and so share Bt.  A one-tap sub-kernel beside
// longer ones takes its m inputs as they are.
//
// Sub-kernels of more than three taps are cut into groups of two, whose products are summed before the one
// transform back: with d_g the window from the group's first tap on,
//
//   z = At [ sum_g (G h_g) * (Bt d_g) ]
//
// The groups' windows start at any position, not at every m-th, so every position of the input gets its own
// transformed tile.  The same holds for taps that a dilation spaces apart: outputs that are as far apart form
// a tile.
#pragma once

#include <vector>

#include "core/geometry.h"
#include "core/integers.h"
#include "core/line_map.h"

namespace ort_tconv {

struct WinogradKind {
  int taps = 1;
  int alpha = 1;  // products, and lines of the transformed input
  int first = 0;  // first line of the tile's input window it reads
  LineMap input = LineMap::kCopy, output = LineMap::kCopy, weights = LineMap::kCopy;
};

// How one axis is transformed; or not: a plain axis keeps its taps, which the GEMM sums.
struct WinogradAxis {
  bool plain = true;
  bool sliding = false;             // transformed tiles start at every input position
  int step = 1;                     // m: domain positions of a tile
  int window = 1;                   // input positions of a tile
  int64_t spacing = 1;              // from one to the next of them
  int64_t most_taps = 1;            // of a class
  int64_t groups = 1;               // of taps in each class, zeros among them
  std::vector<WinogradKind> kinds;  // an entry for each tap count that occurs; alpha is 1 on a plain axis
  std::vector<int> kind_of_class;   // parallel to AxisGeometry::classes
  std::vector<int> first_point;     // of each kind, among the axis's points
  int points = 1;                   // alphas together

  int64_t unit() const { return step * spacing; }  // domain positions that whole tiles cover
  int64_t tiles(int64_t extent) const { return ceil_div(extent, unit()) * spacing; }
  // The tile that domain position q is in, its place there, and the first position of a tile.
  int64_t tile(int64_t q) const { return q / unit() * spacing + q % spacing; }
  int64_t place(int64_t q) const { return q / spacing % step; }
  int64_t position(int64_t tile) const { return tile / spacing * unit() + tile % spacing; }
  // From the first to the last group's window.
  int64_t reach() const { return (groups - 1) * kinds[0].taps * spacing; }
  // Positions of the input window beyond the last tap, which the zeros of the last group read.
  int64_t beyond() const { return sliding ? (groups * kinds[0].taps - most_taps) * spacing : 0; }
};

WinogradAxis plain_axis(const AxisGeometry& axis);

// False if the axis has no such form: its classes read different windows or have one tap each, or the taps are
// far apart.
bool winograd_axis(const AxisGeometry& axis, WinogradAxis* out);

}  // namespace ort_tconv
