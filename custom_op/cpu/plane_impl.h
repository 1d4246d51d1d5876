// Winograd's transforms of whole vectors, shared by the microkernels of floats and of integers.  As these, everything
// is in an anonymous namespace and no std:: function is called.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/line_map.h"

namespace ort_tconv {
namespace {

#define ORT_TCONV_MAP inline __attribute__((always_inline))

template <class V>
using ElementOf = __typeof__(V{}[0]);

struct Copy {
  static constexpr LineMap kMap = LineMap::kCopy;
  static constexpr int kIn = 1, kOut = 1;
  template <class V> static ORT_TCONV_MAP void map(const V* d, V* o) { o[0] = d[0]; }
};
struct Input4 {
  static constexpr LineMap kMap = LineMap::kInput4;
  static constexpr int kIn = 4, kOut = 4;
  template <class V> static ORT_TCONV_MAP void map(const V* d, V* o) {
    o[0] = d[0] - d[2];
    o[1] = d[1] + d[2];
    o[2] = d[2] - d[1];
    o[3] = d[1] - d[3];
  }
};
struct Input3 {
  static constexpr LineMap kMap = LineMap::kInput3;
  static constexpr int kIn = 3, kOut = 3;
  template <class V> static ORT_TCONV_MAP void map(const V* d, V* o) {
    o[0] = d[0] - d[1];
    o[1] = d[1];
    o[2] = d[1] - d[2];
  }
};
struct Input5 {  // of F(4,2): the points 0, -1, 1/2, 2, infinity
  static constexpr LineMap kMap = LineMap::kInput5;
  static constexpr int kIn = 5, kOut = 5;
  template <class V> static ORT_TCONV_MAP void map(const V* d, V* o) {
    o[0] = d[0] + d[3] - 1.5f * (d[1] + d[2]);
    o[1] = d[1] + d[3] - 2.5f * d[2];
    o[2] = 2.0f * d[1] + (d[2] - d[3]);
    o[3] = 2.0f * d[3] + (d[2] - d[1]);
    o[4] = d[1] + d[4] - 1.5f * (d[2] + d[3]);
  }
};
struct Input6 {  // of F(4,3): the points 0, 1/2, -1/2, 3/2, -3/2, infinity
  static constexpr LineMap kMap = LineMap::kInput6;
  static constexpr int kIn = 6, kOut = 6;
  template <class V> static ORT_TCONV_MAP void map(const V* d, V* o) {
    const V even = d[4] - 2.25f * d[2], odd = d[3] - 2.25f * d[1];
    const V far_even = d[4] - 0.25f * d[2], far_odd = d[3] - 0.25f * d[1];
    o[0] = d[4] - 2.5f * d[2] + 0.5625f * d[0];
    o[1] = even + 0.5f * odd;
    o[2] = even - 0.5f * odd;
    o[3] = far_even + 1.5f * far_odd;
    o[4] = far_even - 1.5f * far_odd;
    o[5] = d[5] - 2.5f * d[3] + 0.5625f * d[1];
  }
};
struct Output32 {
  static constexpr LineMap kMap = LineMap::kOutput32;
  static constexpr int kIn = 4, kOut = 3;
  template <class V> static ORT_TCONV_MAP void map(const V* m, V* o) {
    const V sum = m[1] + m[2];
    o[0] = m[0] + sum;
    o[1] = m[1] - m[2];
    o[2] = sum - m[3];
  }
};
struct Output23 {
  static constexpr LineMap kMap = LineMap::kOutput23;
  static constexpr int kIn = 4, kOut = 2;
  template <class V> static ORT_TCONV_MAP void map(const V* m, V* o) {
    o[0] = m[0] + m[1] + m[2];
    o[1] = m[1] - m[2] - m[3];
  }
};
struct Output22 {
  static constexpr LineMap kMap = LineMap::kOutput22;
  static constexpr int kIn = 3, kOut = 2;
  template <class V> static ORT_TCONV_MAP void map(const V* m, V* o) {
    o[0] = m[0] + m[1];
    o[1] = m[1] - m[2];
  }
};
struct Output42 {
  static constexpr LineMap kMap = LineMap::kOutput42;
  static constexpr int kIn = 5, kOut = 4;
  template <class V> static ORT_TCONV_MAP void map(const V* m, V* o) {
    o[0] = m[0] + m[1] + (8.0f * m[2] + m[3]);
    o[1] = 2.0f * (2.0f * m[2] + m[3]) - m[1];
    o[2] = 2.0f * (m[2] + 2.0f * m[3]) + m[1];
    o[3] = m[4] - m[1] + (m[2] + 8.0f * m[3]);
  }
};
struct Output43 {
  static constexpr LineMap kMap = LineMap::kOutput43;
  static constexpr int kIn = 6, kOut = 4;
  template <class V> static ORT_TCONV_MAP void map(const V* m, V* o) {
    const V sum = m[1] + m[2], difference = m[1] - m[2], far_sum = m[3] + m[4], far_difference = m[3] - m[4];
    o[0] = m[0] + far_sum + 2.0f * sum;
    o[1] = difference + 1.5f * far_difference;
    o[2] = 0.5f * sum + 2.25f * far_sum;
    o[3] = m[5] + 0.25f * difference + 3.375f * far_difference;
  }
};

// (G h).  Of two taps, the first and the last are weights as they are, on which WinogradTransforms::Form::untransformed
// relies.
struct Weights32 {  // of F(3,2)
  static constexpr LineMap kMap = LineMap::kWeights32;
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
  static constexpr LineMap kMap = LineMap::kWeights23;
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
  static constexpr LineMap kMap = LineMap::kWeights22;
  static constexpr int kIn = 2, kOut = 3;
  template <class V> static ORT_TCONV_MAP void map(const V* h, V* o) {
    o[0] = h[0];
    o[1] = h[0] + h[1];
    o[2] = h[1];
  }
};
struct Weights42 {
  static constexpr LineMap kMap = LineMap::kWeights42;
  static constexpr int kIn = 2, kOut = 5;
  template <class V> static ORT_TCONV_MAP void map(const V* h, V* o) {
    constexpr ElementOf<V> k = ElementOf<V>(1) / 18;
    o[0] = h[0];
    o[1] = 4 * k * (h[1] - h[0]);
    o[2] = k * (2.0f * h[0] + h[1]);
    o[3] = k * (h[0] + 2.0f * h[1]);
    o[4] = h[1];
  }
};
struct Weights43 {
  static constexpr LineMap kMap = LineMap::kWeights43;
  static constexpr int kIn = 3, kOut = 6;
  template <class V> static ORT_TCONV_MAP void map(const V* h, V* o) {
    constexpr ElementOf<V> k = ElementOf<V>(1) / 9;
    const V ends = 0.5f * h[0] + 0.125f * h[2], middle = 0.25f * h[1];
    const V far_ends = h[0] + 2.25f * h[2], far_middle = 1.5f * h[1];
    o[0] = 16 * k * h[0];
    o[1] = -(ends + middle);
    o[2] = middle - ends;
    o[3] = k * (far_ends + far_middle);
    o[4] = k * (far_ends - far_middle);
    o[5] = h[2];
  }
};
template <int N>
struct Repeat {
  static constexpr LineMap kMap = N == 4 ? LineMap::kRepeat4 : N == 3 ? LineMap::kRepeat3 : LineMap::kRepeat2;
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
#pragma GCC unroll 6
    for (int r = 0; r < Rows::kIn; ++r) {
      V d[Columns::kIn], o[Columns::kOut];
#pragma GCC unroll 6
      for (int c = 0; c < Columns::kIn; ++c)
        std::memcpy(&d[c], in + r * in_plane.row + c * in_plane.column + i, sizeof(V));
      Columns::map(d, o);
#pragma GCC unroll 6
      for (int q = 0; q < Columns::kOut; ++q) half[q][r] = o[q];
    }
#pragma GCC unroll 6
    for (int q = 0; q < Columns::kOut; ++q) {
      V o[Rows::kOut];
      Rows::map(half[q], o);
#pragma GCC unroll 6
      for (int p = 0; p < Rows::kOut; ++p)
        std::memcpy(out + p * out_plane.row + q * out_plane.column + i, &o[p], sizeof(V));
    }
  }
}

// The kernels of all pairs of these maps.
template <class V, class Rows, class T, class... Columns>
constexpr void add_row(PlaneTable<T>* table) {
  ((table->by[static_cast<int>(Rows::kMap)][static_cast<int>(Columns::kMap)] = plane<V, T, Rows, Columns>), ...);
}
template <class V, class... Maps, class T>
constexpr void add_planes(PlaneTable<T>* table) {
  (add_row<V, Maps, T, Maps...>(table), ...);
}

}  // namespace
}  // namespace ort_tconv
