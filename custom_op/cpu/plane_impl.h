// Winograd's transforms of whole vectors, shared by the microkernels of floats and of integers.  As these, everything
// is in an anonymous namespace and no std:: function is called.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/line_map.h"

namespace ort_tconv {
namespace {

#define ORT_TCONV_MAP inline __attribute__((always_inline))

struct Copy {
  static constexpr int kIn = 1, kOut = 1;
  template <class V> static ORT_TCONV_MAP void map(const V* d, V* o) { o[0] = d[0]; }
};
struct Input4 {
  static constexpr int kIn = 4, kOut = 4;
  template <class V> static ORT_TCONV_MAP void map(const V* d, V* o) {
    o[0] = d[0] - d[2];
    o[1] = d[1] + d[2];
    o[2] = d[2] - d[1];
    o[3] = d[1] - d[3];
  }
};
struct Input3 {
  static constexpr int kIn = 3, kOut = 3;
  template <class V> static ORT_TCONV_MAP void map(const V* d, V* o) {
    o[0] = d[0] - d[1];
    o[1] = d[1];
    o[2] = d[1] - d[2];
  }
};
struct Output32 {
  static constexpr int kIn = 4, kOut = 3;
  template <class V> static ORT_TCONV_MAP void map(const V* m, V* o) {
    const V sum = m[1] + m[2];
    o[0] = m[0] + sum;
    o[1] = m[1] - m[2];
    o[2] = sum - m[3];
  }
};
struct Output23 {
  static constexpr int kIn = 4, kOut = 2;
  template <class V> static ORT_TCONV_MAP void map(const V* m, V* o) {
    o[0] = m[0] + m[1] + m[2];
    o[1] = m[1] - m[2] - m[3];
  }
};
struct Output22 {
  static constexpr int kIn = 3, kOut = 2;
  template <class V> static ORT_TCONV_MAP void map(const V* m, V* o) {
    o[0] = m[0] + m[1];
    o[1] = m[1] - m[2];
  }
};

// (G h).  The first and the last are weights as they are, on which WinogradTransforms::Form::untransformed relies.
struct Weights32 {  // of F(3,2)
  static constexpr int kIn = 2, kOut = 4;
  template <class V> static ORT_TCONV_MAP void map(const V* h, V* o) {
    const V first = 0.5f * h[0], last = 0.5f * h[1];
    o[0] = h[0];
    o[1] = first + last;
    o[2] = first - last;
    o[3] = h[1];
  }
};
struct Weights23 {
  static constexpr int kIn = 3, kOut = 4;
  template <class V> static ORT_TCONV_MAP void map(const V* h, V* o) {
    const V ends = 0.5f * h[0] + 0.5f * h[2], middle = 0.5f * h[1];
    o[0] = h[0];
    o[1] = ends + middle;
    o[2] = ends - middle;
    o[3] = h[2];
  }
};
struct Weights22 {
  static constexpr int kIn = 2, kOut = 3;
  template <class V> static ORT_TCONV_MAP void map(const V* h, V* o) {
    o[0] = h[0];
    o[1] = h[0] + h[1];
    o[2] = h[1];
  }
};
template <int N>
struct Repeat {
  static constexpr int kIn = 1, kOut = N;
  template <class V> static ORT_TCONV_MAP void map(const V* h, V* o) {
    for (int i = 0; i < N; ++i) o[i] = h[0];
  }
};

// One map along the rows of a plane of vectors V of numbers T and one along its columns, of n numbers at each place
// (Kernels<T>::PlaneMap in cpu/kernel.h).
template <class V, class T, class Rows, class Columns>
void plane(const T* in, Plane in_plane, T* out, Plane out_plane, int64_t n) {
  for (int64_t i = 0; i < n; i += static_cast<int64_t>(sizeof(V) / sizeof(T))) {
    V half[Columns::kOut][Rows::kIn];
#pragma GCC unroll 4
    for (int r = 0; r < Rows::kIn; ++r) {
      V d[Columns::kIn], o[Columns::kOut];
#pragma GCC unroll 4
      for (int c = 0; c < Columns::kIn; ++c)
        std::memcpy(&d[c], in + r * in_plane.row + c * in_plane.column + i, sizeof(V));
      Columns::map(d, o);
#pragma GCC unroll 4
      for (int q = 0; q < Columns::kOut; ++q) half[q][r] = o[q];
    }
#pragma GCC unroll 4
    for (int q = 0; q < Columns::kOut; ++q) {
      V o[Rows::kOut];
      Rows::map(half[q], o);
#pragma GCC unroll 4
      for (int p = 0; p < Rows::kOut; ++p)
        std::memcpy(out + p * out_plane.row + q * out_plane.column + i, &o[p], sizeof(V));
    }
  }
}

// Maps of one transform meet, and Copy meets all.
template <class Map> constexpr int kTransform = 0;
template <> constexpr int kTransform<Input4> = 1;
template <> constexpr int kTransform<Input3> = 1;
template <> constexpr int kTransform<Output32> = 2;
template <> constexpr int kTransform<Output23> = 2;
template <> constexpr int kTransform<Output22> = 2;
template <> constexpr int kTransform<Weights32> = 3;
template <> constexpr int kTransform<Weights23> = 3;
template <> constexpr int kTransform<Weights22> = 3;
template <int N> constexpr int kTransform<Repeat<N>> = 3;

}  // namespace
}  // namespace ort_tconv
