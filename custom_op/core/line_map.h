// By itself, as the microkernels may include no more than plain types (cpu/kernel.h).
#pragma once

#include <cstddef>
#include <cstdint>

namespace ort_tconv {

// Linear maps of a few numbers along an axis, of Winograd's transforms (core/winograd.cc); kernels apply them to whole
// vectors, two axes at a time (cpu/kernel.h).
enum class LineMap {
  kCopy,
  kInput4,
  kInput3,
  kInput5,
  kInput6,
  kOutput32,
  kOutput23,
  kOutput22,
  kOutput42,
  kOutput43,
  kWeights32,
  kWeights23,
  kWeights22,
  kWeights42,
  kWeights43,
  kRepeat3,
  kRepeat2,
  kRepeat4,
};
constexpr int kLineMaps = static_cast<int>(LineMap::kRepeat4) + 1;

struct Plane { ptrdiff_t row, column; };  // strides of lines along two axes

// One map along the rows of a plane of vectors of L numbers and one along its columns:
// out[p*out.row + q*out.column + i] = sum over r, c of rows(p, r) * columns(q, c) * in[r*in.row + c*in.column + i],
// i < n; n is a multiple of L.  By the maps of rows and of columns; null unless they are of the same transform.
template <class T>
struct PlaneTable {
  using PlaneMap = void (*)(const T* in, Plane in_plane, T* out, Plane out_plane, int64_t n);
  PlaneMap by[kLineMaps][kLineMaps];
};

}  // namespace ort_tconv
