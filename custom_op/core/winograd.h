// Winograd's minimal filtering F(m, n): m outputs of an n-tap correlation from m + n - 1 products
// (S. Winograd, Arithmetic Complexity of Computations, 1980), for the short sub-kernels that
// segregation leaves.  All sub-kernels of an axis work on the same tiles of the same input window:
//
//   z(j) = sum_l d(j + l) h(l),  j = 0 .. m-1:   z = At [ (G h) * (Bt d) ]
//
// Small tiles are F(3,2) and F(2,3), which use the points 0, 1, -1 and infinity and so share Bt.  Large ones are F(4,2)
// and F(4,3).  Their points, 0, -1, 1/2, 2, infinity and 0, 1/2, -1/2, 3/2, -3/2, infinity, are those of small numbers
// that enlarge rounding errors least; with 1, -1, 2 and 1, -1, 2, -2 in their place errors were 1.6 and 1.8 times as
// large (tried with 256 channels; on the choice of points see B. Barabasz et al., Error Analysis and Improving the
// Accuracy of Winograd Convolution for Deep Neural Networks, ACM Transactions on Mathematical Software 46(4), 2020).  A
// one-tap sub-kernel beside longer ones takes its m inputs as they are.
//
// Of aligned axes (geometry.h) all sub-kernels read the same tiles.  Of others, whose domain is shorter, each class's
// tiles begin at its own first output, and sub-kernels share what they have in common along the other axes.
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

#include <algorithm>
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
  int points = 1;                   // alphas of all kinds together

  int most_points() const {  // of a kind
    int most = 1;
    for (const WinogradKind& k : kinds) most = std::max(most, k.alpha);
    return most;
  }
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

// What is done along an axis: nothing, so that it keeps its taps; F(3,2) and F(2,3), or F(2,2) beside the latter, in
// whose transforms numbers are added and halved; or F(4,2) and F(4,3), which need fewer products and more weights, and
// whose transforms multiply and so round.
enum class Transform { kNone, kSmall, kLarge };

// False if the axis has no such form: its classes read different windows or have one tap each, the taps are far apart,
// or tiles would be large and slide.
bool winograd_axis(const AxisGeometry& axis, Transform transform, WinogradAxis* out);

}  // namespace ort_tconv
