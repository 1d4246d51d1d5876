// Contract between the engines (run.cc) and the microkernels, which are compiled once per instruction
// set from kernel_impl.h.  Only plain structs here: no inline function may leak from a translation
// unit built for AVX-512 into one that runs everywhere.
//
// T is the type arithmetic is done in (float or double), S the type tensors are stored in.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/line_map.h"
#include "core/matrix_product.h"
#include "core/problem.h"

namespace ort_tconv {

// 16-bit storage types; arithmetic happens in float.
struct Half { uint16_t bits; };
struct BFloat16 { uint16_t bits; };

template <class S> struct ComputeType { using type = float; };
template <> struct ComputeType<double> { using type = double; };

constexpr int kMaxPixels = 6;    // pixels a gemm microkernel takes at a time
constexpr int kMaxVectors = 4;   // vectors of output channels a gemm microkernel may take
constexpr int kMaxRows = 12;     // rows a row microkernel may take
constexpr int kMaxPartRows = 4;  // rows it may take if some taps do not meet all of them
// Places that weights are fetched from in turns: memory serves several faster than one.
constexpr int kFetchStreams = 4;

// acc[acc_offset[i] + l] (+)= sum over taps t, channels c of
//     x[x_offset[i] + taps[t] + c] * w[(panel(t)*channels + c)*NV*L + l],
// i = 0..count-1 pixels, l = 0..NV*L-1 output channels (L lanes a vector), panel(t) = panels ? panels[t] : t.
// x + x_offset[i] is channel 0 of pixel i in a channels-last window.
template <class T>
struct GemmArgs {
  const T* x;
  const int64_t* x_offset;
  const ptrdiff_t* taps;
  const int64_t* panels;
  int64_t ntaps, channels, count;
  const void* w;
  T* acc;
  const int64_t* acc_offset;
  bool accumulate;
  // If not 0, so many products are summed one after the other; then the next sum begins, and sums are added up.  That
  // makes rounding errors those of shorter sums.
  int64_t most_summed;
  // If not null: while summing, fetch the cache lines from here on, so many bytes further with every channel of
  // every tap and kMaxPixels pixels; and those of kFetchStreams - 1 further places, each so many bytes from the last.
  const char* ahead;
  int64_t ahead_step, ahead_part;
};

// Calls of gemm take their pixels in so many passes over the weights.
inline constexpr int64_t gemm_passes(int64_t count) { return (count + kMaxPixels - 1) / kMaxPixels; }

// Taps that meet rows first .. first+rows-1 of a row microkernel.
struct RowSegment {
  int64_t taps;
  int first, rows;
};

// out[n][i] (+)= sum over taps t that meet row n, channels c of x[taps[t] + c*channel_stride + i] * w(t, c, n),
// i = 0..count-1, n = 0..NB-1.  Taps and weights follow each other segment by segment, weights as
// [tap][channel][row of the segment].  With NB > kMaxPartRows, every tap meets every row.  Reads and writes
// up to the next multiple of L positions.
template <class T>
struct RowsArgs {
  const T* x;
  int64_t channel_stride;
  const RowSegment* segments;
  int64_t nsegments;
  const ptrdiff_t* taps;
  int64_t channels;
  const T* w;
  T* out[kMaxRows];
  int64_t count;
  bool accumulate;
};

// The columns of matrices that lie row by row, each to its place:
// dst[m*dst_step + place[j] + i] = src[m*src_step + i*columns + j], or 0 from row n on, for matrices m < count, i <
// width, j < columns; a column whose place is negative is left out.  If `ahead` is not null, also fetches ahead_bytes
// from there on for each matrix, each ahead_step bytes from the last.
template <class T>
struct ColumnsArgs {
  const T* src;
  int64_t count, src_step, n, columns;
  const int64_t* place;
  int64_t width;
  T* dst;
  int64_t dst_step;
  const char* ahead;
  int64_t ahead_bytes, ahead_step;
};

template <class T>
struct Kernels {
  int lanes;        // L
  int max_vectors;  // greatest NV with a kernel
  int max_rows;     // greatest NB with a kernel
  // By the weights' storage and NV; double has the first row only.
  void (*gemm[kWeightStorages][kMaxVectors + 1])(const GemmArgs<T>&);
  void (*rows[kMaxRows + 1])(const RowsArgs<T>&);
  // Whether |v[i]| <= limit for all i < n, NaN counting as not; n is a multiple of L.
  bool (*within)(const T* v, int64_t n, T limit);
  // dst[l*dst_stride + i] = src[offset[i] + l], i < n, l < nv*L.
  void (*transpose)(const T* src, const int64_t* offset, int64_t n, int nv, T* dst, int64_t dst_stride);
  // Whether all values that it placed are finite.
  bool (*place_columns)(const ColumnsArgs<T>&);
  PlaneTable<T> planes;  // Winograd's transforms
  // dst[i*ways + r] = src[r][i], i < n.
  void (*interleave)(const T* const* src, int ways, int64_t n, T* dst);
};

// Consecutive positions of a window: n elements of the input from `source` on, then zeros.
struct WindowRun { int64_t source, n, zeros; };

// Rows of sums, and of the outputs that they become: n in each, `count` rows, and from the start of one to the next
// one's so many sums and outputs.
struct OutputRows { int64_t n, count, sums_step, outputs_step; };

template <class S>
struct StorageKernels {
  using T = typename ComputeType<S>::type;
  // dst[i] = src[i], i < n.
  void (*load)(const S* src, int64_t n, T* dst);
  // dst[i] = src[i] rounded to nearest, i < n.
  void (*store)(const T* src, int64_t n, S* dst);
  // One channel's window, run after run.  May also write zeros up to L - 1 positions past its end.
  void (*load_runs)(const S* src, const WindowRun* runs, int64_t count, T* dst);
  // dst[i*dst_stride + c] = src[c*src_stride + i], i < n, c < channels.  May also write up to the next
  // multiple of L channels of each position.
  void (*load_channels_last)(const S* src, int64_t src_stride, int64_t n, int64_t channels, T* dst, int64_t dst_stride);
  // y[i] = act(v[i] * scale + bias + z[i]), i < n, of each row; z may be null.  `slope` is PRelu's.  Also fetches the
  // lines at y + ahead, where a later row of the channel goes.
  void (*finish)(const T* v, const OutputRows& rows, T scale, T bias, const S* z, const Activation& act, T slope, S* y,
                 int64_t ahead);
};

// One table an instruction set.
struct KernelSet {
  const char* name;
  Kernels<float> f32;
  Kernels<double> f64;
  StorageKernels<float> float_io;
  StorageKernels<double> double_io;
  StorageKernels<Half> half_io;
  StorageKernels<BFloat16> bfloat16_io;
  // dst[i] = src[i], i < n.
  void (*load_int8)(const int8_t* src, int64_t n, float* dst);
};

}  // namespace ort_tconv
