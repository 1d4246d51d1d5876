// The transforms of a Winograd plan, whatever the numbers that they are of: which lines of which arrays each step reads
// and writes, and the products between them.  Internal to cpu/.
#pragma once

#include <map>
#include <vector>

#include "core/geometry.h"
#include "core/line_map.h"
#include "core/plan.h"
#include "core/winograd.h"
#include "cpu/engine.h"
#include "cpu/quantized_kernel.h"

namespace ort_tconv {

// A transform goes through its axes two at a time, in lines: from a source to a destination, and through two buffers
// between if there are more axes.  A step is one call of a kernel; offsets and strides count in the units of the places
// that it reads and writes.
struct PlaneStep {
  LineMap row, column;
  int from, to;  // places: source, two buffers, destination
  ptrdiff_t in, out;
  Plane in_plane, out_plane;
};
template <class T>
struct Place {
  T* at;
  ptrdiff_t unit;
};

// n numbers at each place.
template <class T>
void run_steps(const std::vector<PlaneStep>& steps, const PlaneTable<T>& planes, const Place<T> (&places)[4],
               int64_t n) {
  for (const PlaneStep& s : steps) {
    const Place<T>&from = places[s.from], &to = places[s.to];
    const auto plane = planes.by[static_cast<int>(s.row)][static_cast<int>(s.column)];
    plane(from.at + s.in * from.unit, {s.in_plane.row * from.unit, s.in_plane.column * from.unit},
          to.at + s.out * to.unit, {s.out_plane.row * to.unit, s.out_plane.column * to.unit}, n);
  }
}

class WinogradTransforms {
 public:
  struct Product {
    int64_t point;        // of its group's transformed input
    int64_t last_class;   // of the last axis
    int64_t class_point;  // among the class's own points
    int64_t first_tap;    // taps of all products before it
  };
  struct Steps { std::vector<PlaneStep> weights, output; };
  // Of a sub-kernel: where its taps lie in the kernel, by rising input position, -1 for a zero that fills up a group;
  // the taps of plain axes and the groups of others, as offsets in the transformed input; and where the weight of
  // (class point, such a tap) lies among its transformed weights; and which of the taps of all products has each of its
  // own weights as it is, or nothing where one of them is in sums alone.
  struct Form {
    std::vector<int64_t> sources;
    std::vector<ptrdiff_t> taps;
    std::vector<int64_t> weight;
    std::vector<int64_t> untransformed;  // parallel to SubKernel::taps
    const Steps* steps = nullptr;
    int halves = 0;  // axes whose transformed weights may be halves of integers, where the weights are integers
  };
  // Sub-kernels that share their leading classes: one output row pattern.
  struct Group {
    int64_t first;  // of its sub-kernels
    std::vector<Product> products;
  };
  // What groups of equal kinds of the leading axes read: the window, transformed by those and by all kinds of the last
  // axis.
  struct Input {
    std::vector<PlaneStep> steps;
    int64_t first_group, end_group;
  };

  // `pitch`: numbers from one position of the window to the next, which are as many in the transformed input; `line`:
  // numbers in a cache line.
  WinogradTransforms(const std::vector<AxisGeometry>& axes, std::vector<WinogradAxis> winograd,
                     std::vector<WindowAxis> window, Dims window_stride, const Dims& tile,
                     const std::vector<SubKernel>& sub_kernels, int64_t pitch, int64_t line);
  WinogradTransforms(const WinogradTransforms&) = delete;  // forms point to its steps

  int axes() const { return static_cast<int>(winograd_.size()); }

  // Stride of arrays of n numbers that are read or written side by side: an odd number of cache lines, so that
  // they do not all meet in the same sets of the cache.
  int64_t staggered(int64_t n) const { return (ceil_div(n, line_) | 1) * line_; }

  // Winograd tiles along each axis of a tile with these extents.
  Dims tiles(const Dims& extent) const;

  // Offsets of the products' pixels in the transformed input and, a number of output channels apart, in a product; and
  // of a result by row and by column of the tile.  Results lie as [class][position within a Winograd tile][tile]
  // [output channel], `line` apart by position.
  void locate(const Dims& extent, const Dims& tiles, int64_t line, int64_t width, int64_t* x_offset,
              int64_t* acc_offset, int64_t* row_offset, int64_t* column_offset) const;

  // Calls f(offset in the window, offset in a point of the transformed input) for each tile of the transformed input;
  // on plain and sliding axes every window position is a tile of its own.
  template <class F>
  void visit_input(const Dims& extent, const Dims& tiles, F f) const {
    Dims extents;
    for (int i = 0; i < axes(); ++i) {
      const int64_t missing = window_[i].dense ? tile_[i] - extent[i] : 0;
      extents.push_back(winograd_[i].plain ? input_tiles_[i] - missing : input_tiles(winograd_[i], tiles[i]));
    }
    Odometer tile(extents);
    do {
      ptrdiff_t corner = 0, out = 0;
      for (int i = 0; i < axes(); ++i) {
        const int64_t step = winograd_[i].sliding ? 1 : winograd_[i].step;
        corner += tile.at[i] * step * window_stride_[i] * pitch_;
        out += tile.at[i] * input_stride_[i];
      }
      f(corner, out);
    } while (tile.next());
  }

  std::vector<Form> forms;  // parallel to the sub-kernels
  std::vector<Input> inputs;
  std::vector<Group> groups;  // by input
  int64_t full_tiles = 1;     // Winograd tiles of a whole tile
  // `points`: of an input, at most.
  int64_t last_classes = 0, points = 1, point_stride = 0, places = 1, pass_lines = 1, max_class_points = 1,
          max_weights = 1, most_plain_taps = 1,
          total_products = 0;  // total: taps included

 private:
  // How an axis of the source becomes one of the destination: maps, each from a line on to a line on.
  struct AxisMaps {
    struct Piece {
      LineMap map;
      int64_t in, out;
    };
    int64_t in = 1, out = 1;  // lines
    std::vector<Piece> pieces;
    void add(LineMap map, int lines, int64_t from, int64_t to);
  };

  const WinogradKind& kind(int axis, const SubKernel& sub) const {
    return winograd_[axis].kinds[winograd_[axis].kind_of_class[sub.classes[axis]]];
  }
  void describe(const std::vector<AxisGeometry>& axes, const SubKernel& sub);
  Input make_input(const SubKernel& sub) const;
  Steps make_class_steps(const SubKernel& sub) const;
  static Dims row_major(const std::vector<AxisMaps>& maps, int64_t AxisMaps::* lines);
  std::vector<PlaneStep> make_steps(std::vector<AxisMaps> maps, Dims stride) const;
  Group make_group(const std::vector<SubKernel>& sub_kernels, int64_t first);
  // Tiles of the transformed input along an axis that is transformed, for so many of the output.
  static int64_t input_tiles(const WinogradAxis& w, int64_t tiles) {
    return w.sliding ? w.position(tiles - 1) + w.reach() + 1 : tiles;
  }

  std::vector<WinogradAxis> winograd_;
  std::vector<WindowAxis> window_;
  Dims window_stride_, tile_;
  int64_t pitch_, line_;
  std::vector<int> transformed_;             // axes, last first
  Dims input_tiles_, input_stride_;          // of the transformed input
  std::map<std::vector<int>, Steps> steps_;  // by the kinds of a sub-kernel's axes
};

}  // namespace ort_tconv
