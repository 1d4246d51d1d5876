// By itself, as the microkernels may include no more than plain types (cpu/kernel.h).
#pragma once

#include <cstddef>

namespace ort_tconv {

// Linear maps of a few numbers along an axis, of Winograd's transforms (core/winograd.cc); kernels apply them to whole
// vectors, two axes at a time (cpu/kernel.h).
enum class LineMap {
  kCopy,
  kInput4,
  kInput3,
  kOutput32,
  kOutput23,
  kOutput22,
  kWeights32,
  kWeights23,
  kWeights22,
  kRepeat3,
  kRepeat2,
};
constexpr int kLineMaps = 11;

struct Plane { ptrdiff_t row, column; };  // strides of lines along two axes

}  // namespace ort_tconv
