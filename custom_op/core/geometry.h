// Kernel segregation of one axis.
//
//   y[o] = sum over taps t with (o + p - t*dil) divisible by s of x[(o + p - t*dil)/s] * w[t]
//
// Outputs o = s*j + a (0 <= a < s) of one residue class meet the same taps, at fixed input offsets:
// x[j + delta], delta = (a + p - t*dil)/s.  A class is thus a dense, stride-1 correlation.
#pragma once

#include <cstdint>
#include <vector>

#include "core/problem.h"

namespace ort_tconv {

struct Tap {
  int64_t index;   // t, position in the kernel
  int64_t offset;  // delta, input index = domain index + offset
};

struct ResidueClass {
  int64_t residue;        // a: the class owns outputs s*j + a
  int64_t count;          // how many of them exist, j = 0 .. count-1
  int64_t shift;          // domain index q = j + shift (0 unless aligned)
  std::vector<Tap> taps;  // by falling offset; may be empty: those outputs are the bias
};

struct AxisGeometry {
  int64_t stride, in, out;
  std::vector<ResidueClass> classes;  // only those that own an output; ordered by output position
  std::vector<int64_t> offsets;       // distinct tap offsets of all classes, rising
  int64_t domain = 0;                 // q = 0 .. domain-1 covers every class
  int64_t origin = 0;                 // output position of the first class at q = 0 (<= 0)
  bool aligned = false;

  // Outputs of class k at domain index q; may lie outside [0, out), then the element does not exist.
  int64_t output(int k, int64_t q) const { return stride * (q - classes[k].shift) + classes[k].residue; }
};

// Segregates axis `axis` of the problem.  Exact mode: q = j for each class.  Aligned mode shifts the
// classes so that all read the same input window at the same q (at the price of a slightly longer
// domain); it needs every class to own a tap and dilation 1 or stride 1, and falls back to exact mode otherwise.
AxisGeometry segregate(const Problem& problem, int axis, bool aligned);

// All spatial axes.
std::vector<AxisGeometry> segregate(const Problem& problem, bool aligned);

// The same convolution where an axis has a single input position: there the stride means nothing, and one
// as long as the kernel's reach gives every output the one tap that meets it, instead of all of them.
Problem spread_single_positions(const Problem& problem);

// The same convolution where all axes have a single input position and each of their outputs one tap: W and Y lie as
// those of a convolution with one axis, whose rows are longer.
Problem join_single_positions(const Problem& p);

// The batch as an axis: one class, one tap.
AxisGeometry batch_axis(const Problem& problem);

// Whether all sub-kernels have equally many taps, and at least one: aligned, they then meet the same inputs.
bool have_equal_taps(const std::vector<AxisGeometry>& axes);

// Multiply-adds per batch element of the method itself (each output meets its taps, clipped at borders
// not at all): C * M/group * prod(input sizes * kernel sizes).
double direct_macs(const Problem& problem);

}  // namespace ort_tconv
