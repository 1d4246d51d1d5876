// What the host tells the device kernels: plain structs passed by value, shared by host and device code.
#pragma once

#include <cstdint>

#include "core/problem.h"

#ifdef __CUDACC__
#define TCONV_HOST_DEVICE __host__ __device__
#else
#define TCONV_HOST_DEVICE
#endif

namespace ort_tconv::cuda {

// n / divisor for 0 <= n < 2^31 by one multiplication (Granlund and Montgomery, "Division by invariant
// integers using multiplication", PLDI 1994).
struct FastDiv {
  uint32_t divisor = 1, multiplier = 0, shift = 0;

  FastDiv() = default;
  explicit FastDiv(int64_t d) : divisor(static_cast<uint32_t>(d)) {
    if (d <= 1) {
      divisor = 1;
      return;
    }
    uint32_t log2 = 0;
    while ((int64_t{1} << log2) < d) ++log2;
    const uint32_t p = 31 + log2;
    multiplier = static_cast<uint32_t>(((uint64_t{1} << p) + divisor - 1) / divisor);
    shift = p - 32;
  }
  TCONV_HOST_DEVICE int operator()(int n) const {
    if (divisor == 1) return n;
    const uint64_t product = static_cast<uint64_t>(static_cast<uint32_t>(n)) * multiplier;
    return static_cast<int>(static_cast<uint32_t>(product >> 32) >> shift);
  }
  TCONV_HOST_DEVICE int remainder(int n, int quotient) const { return n - quotient * static_cast<int>(divisor); }
};

// One spatial axis, as core/geometry.h segregates it.  Class k = 0 .. classes-1 at domain index q owns
// output stride*q + origin + k.  Its tap at input q + offset is t with
//   t * dilation = origin + k + pad - stride*offset,  if that is a kernel position.
// Offsets are first_offset .. first_offset + offsets - 1, a superset of those that occur.
struct Axis {
  int in, out, stride, pad, dilation, kernel;
  int classes, origin, first_offset, offsets;
  int tile_log2;  // domain positions of a tile
  int window;     // input positions a tile reads: tile + offsets - 1
  FastDiv tiles, window_div, classes_div, offsets_div;

  // The tap that connects class k with offset u (counted from first_offset); -1 if none does.
  TCONV_HOST_DEVICE int tap(int k, int u) const {
    const int reach = origin + k + pad - stride * (first_offset + u);
    if (reach < 0) return -1;
    const int t = dilation == 1 ? reach : reach / dilation;
    if (t >= kernel || (dilation != 1 && t * dilation != reach)) return -1;
    return t;
  }
};

// y = f(sum + bias + residual)
struct Epilogue {
  const void *bias, *residual;
  const float* slopes;  // PRelu with a slope for each output channel; else null, and `a` is the slope
  ActivationKind activation;
  float a, b;
};

constexpr int kRowTile = 16;         // rows of a matrix tile, as mma.sync has them
constexpr int kRowTileBytes = 1024;  // one in packed weights: 16 rows, kChunkBytes each
constexpr int kChunkBytes = 64;      // input channels summed at a time: 32, 16 or 8 of 2, 4 or 8 bytes
constexpr int kStages = 3;           // weights in flight
constexpr int kMaxShifts = 512;      // distinct window shifts a block may step through

// Which (output channel, residue class) pair row i of row tile t stands for, within a group.
//   folded:     row 16*t + i = channel * classes + class: for few output channels
//   otherwise:  tile t = channel tile * classes + class; its rows are 16 channels of that class
struct RowMap {
  int folded;
  int classes;   // residue classes of all axes
  int channels;  // output channels of a group
  FastDiv classes_div;

  // False if the row stands for nothing.
  TCONV_HOST_DEVICE bool locate(int tile, int i, int& channel, int& cls) const {
    const int unit = folded ? tile * kRowTile + i : tile;
    const int quotient = classes_div(unit);
    cls = classes_div.remainder(unit, quotient);
    channel = folded ? quotient : quotient * kRowTile + i;
    return channel < channels;
  }
};

// Where the weights of a row tile lie among the packed tiles of one chunk of input channels.
//   folded:     tile * shifts + shift;  a row without a tap at that shift holds zeros
//   otherwise:  channel tile * taps + tap
struct PackParams {
  const void* w;  // [C, M/group, taps]
  void* packed;   // [group][chunk][tile][kRowTileBytes]
  Axis axis[3];
  RowMap rows;
  int groups, group_in, group_out, taps, chunks;
  int shifts;  // of the window
  int tiles;   // packed row tiles of a chunk
  FastDiv shifts_div, taps_div, tiles_div, chunks_div;
};

struct GemmParams {
  const void *x, *w;  // w: packed
  void* y;
  void* partial;           // sums of split-K, in the type of the accumulators; null without split-K
  int64_t partial_stride;  // elements from one split's Y to the next, a multiple of 16 bytes
  Epilogue epilogue;
  Axis axis[3];
  RowMap rows;
  int batch, channels, out_channels, group_in, group_out;
  int64_t in_plane, out_plane;  // elements
  int batch_tile_log2;          // images of a tile
  int window;                   // positions of a tile's window, all images of it
  FastDiv window_div, image_div;
  int row_tiles;       // of a group
  FastDiv row_blocks;  // of a group
  int packed_tiles;    // row tiles of a chunk in the packed weights
  int taps, shifts;
  int chunks;  // of input channels
  int chunks_per_split;
  FastDiv line_vectors;  // 16-byte vectors that may cover a line of outputs
  int vector_stores;     // y and residual are 16-byte aligned alike
};

// Where things are, for gemm_kernel, in shared memory, in bytes.
struct GemmShared {
  int sources, flags, steps, count, weights, windows, window_bytes, gather, gather_stride, total;

  TCONV_HOST_DEVICE GemmShared(int row_tiles, int columns, int accumulator_bytes, int shifts, int window) {
    sources = 0;
    flags = sources + 4 * shifts * row_tiles;
    // Compilers read flags four at a time: what they read too much is nobody's.
    steps = (flags + 4 * shifts + 15) / 16 * 16;
    count = steps + 8 * shifts;
    weights = (count + 4 + 15) / 16 * 16;
    windows = weights + kStages * row_tiles * kRowTileBytes;
    window_bytes = window * kChunkBytes;
    // The epilogue's sums lie over both.  8 columns more keep the lanes of a store apart.
    gather = weights;
    gather_stride = (columns + 8) * accumulator_bytes;
    const int pipeline = windows + 2 * window_bytes, epilogue = gather + row_tiles * kRowTile * gather_stride;
    total = pipeline > epilogue ? pipeline : epilogue;
  }
};

// Sums the parts of split-K.
struct ReduceParams {
  const void* partial;
  void* y;
  Epilogue epilogue;
  int splits, out_channels;
  int64_t count, partial_stride, out_plane;
};

// One thread an output position, a few output channels each: any geometry, any number of axes.
struct DirectAxis {
  int in, out, stride, pad, kernel;
  int dilation_step;  // dilation / gcd(dilation, stride): input distance of neighbouring taps of a class
  int tap_step;       // stride / gcd: tap distance
  int gcd, inverse;   // inverse of dilation / gcd modulo tap_step
  FastDiv out_div;
};

struct DirectParams {
  const void *x, *w;  // w: as the model has it
  void* y;
  Epilogue epilogue;
  int rank;
  DirectAxis axis[kMaxSpatial];
  int batch, channels, out_channels, groups, group_in, group_out;
  int channel_blocks;  // of a group
  int64_t in_plane, out_plane, taps;
};

}  // namespace ort_tconv::cuda
