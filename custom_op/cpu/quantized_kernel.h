// Contract between the quantised engine and its microkernels, which are compiled once per instruction set from
// quantized_impl.h.  Plain structs only, as in kernel.h.
//
// Inputs and weights meet in words of 32 bits, which hold a few channels of one position: one instruction
// multiplies a vector of words by another, entry by entry, and adds the products of each word to its int32 lane.
// No sum of fewer bits is formed, so that every result is exact (modulo 2^32).
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/line_map.h"

namespace ort_tconv {

// What a word of the input holds.  Weights are signed bytes; where inputs are wide, they are widened on loading.
enum class WordForm {
  kUnsignedBytes,  // 4 channels as uint8
  kSignedBytes,    // 4 channels as int8
  kWide,           // 2 channels as int16, of values as in uint8
};
inline int word_channels(WordForm form) { return form == WordForm::kWide ? 2 : 4; }

constexpr int kQuantizedMaxVectors = 4;  // vectors of output channels a gemm microkernel may take
constexpr int kQuantizedMaxRows = 4;     // output channels a row microkernel may take

// acc[acc_offset[i] + l] = start[l] + sum over taps t, words q of
//     x[x_offset[i] + taps[t] + q] . w[((t*words + q)*NV*L + l)*G ..],
// i = 0..count-1 pixels, l = 0..NV*L-1 output channels (L lanes a vector), G channels a word; "." adds the G
// products.  If `start` is null, the sum goes on from acc.
struct QuantizedGemmArgs {
  const uint32_t* x;
  const int64_t* x_offset;
  const ptrdiff_t* taps;
  int64_t ntaps, words, count;
  const int8_t* w;
  int32_t* acc;
  const int64_t* acc_offset;
  const int32_t* start;
};

// out[n][i] = start[n] + sum over taps t, words q of x[taps[t] + q*word_stride + i] . w[(t*words + q)*NB + n],
// i = 0..count-1, n = 0..NB-1; weights are words in the form of the input.  Reads and writes up to the next
// multiple of L positions.
struct QuantizedRowsArgs {
  const uint32_t* x;
  int64_t word_stride;
  const ptrdiff_t* taps;
  int64_t ntaps, words;
  const uint32_t* w;
  int32_t* out[kQuantizedMaxRows];
  int32_t start[kQuantizedMaxRows];
  int64_t count;
};

// y = round half to even(clamp(sum * multiplier + offset, low, high)) + zero, or without rounding and zero for
// float32 results.
struct QuantizedEpilogue {
  float low, high;
  int32_t zero;
};

struct QuantizedKernels {
  const char* name;
  const char* base;  // the KernelSet (arch.h) whose instructions, and more, these need
  WordForm form;
  int lanes;                                                         // L
  int max_vectors;                                                   // greatest NV with a kernel
  void (*gemm[kQuantizedMaxVectors + 1])(const QuantizedGemmArgs&);  // by NV
  void (*rows[kQuantizedMaxRows + 1])(const QuantizedRowsArgs&);     // by NB
  // As gemm, with weights in int16, two channels a word; Winograd's transforms of the input and of results; and
  // v[i*NV*L + l] = (v[i*NV*L + l] >> shift) + start[l], i < n.  Null where words hold bytes.
  void (*gemm_wide[kQuantizedMaxVectors + 1])(const QuantizedGemmArgs&);
  PlaneTable<int16_t> input_planes;
  PlaneTable<int32_t> output_planes;
  void (*settle)(int32_t* v, int64_t n, int nv, int shift, const int32_t* start);

  // dst[i*dst_stride + q], i < n: words of `channels` channels src[c*src_stride + i] ^ flip.  Channels that fill
  // up the last word are 0.  Also writes up to the end of the 16th channel begun.
  void (*load_channels_last)(const uint8_t* src, int64_t src_stride, int64_t n, int64_t channels, uint8_t flip,
                             uint32_t* dst, int64_t dst_stride);
  // dst[q*dst_stride + i], the same with positions last; n positions.
  void (*load_rows)(const uint8_t* src, int64_t src_stride, int64_t n, int64_t channels, uint8_t flip, uint32_t* dst,
                    int64_t dst_stride);
  // Sum of the entries of words src[q*stride], q < words.
  int32_t (*sum)(const uint32_t* src, int64_t words, int64_t stride);

  // dst[l*dst_stride + i] = epilogue of acc[offset[i] + l] with multiplier[l], offset[l], i < n, l < nv*L.  Writes
  // up to the next multiple of 16 outputs.
  void (*store_bytes)(const int32_t* acc, const int64_t* offset, int64_t n, int nv, const float* multiplier,
                      const float* bias, const QuantizedEpilogue& e, uint8_t* dst, int64_t dst_stride);
  void (*store_floats)(const int32_t* acc, const int64_t* offset, int64_t n, int nv, const float* multiplier,
                       const float* bias, const QuantizedEpilogue& e, float* dst, int64_t dst_stride);
  // dst[i*ways + k] = epilogue of acc[k][i], i < n.  acc has room up to the next multiple of L.
  void (*finish_bytes)(const int32_t* const* acc, int ways, int64_t n, float multiplier, float bias,
                       const QuantizedEpilogue& e, uint8_t* dst);
  void (*finish_floats)(const int32_t* const* acc, int ways, int64_t n, float multiplier, float bias,
                        const QuantizedEpilogue& e, float* dst);
};

}  // namespace ort_tconv
