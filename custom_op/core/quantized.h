// Quantised transposed convolution: 8-bit inputs and weights, exact integer sums, and one rounding.
//
//   s[m] = B[m] + sum over channels and taps of (x - x_zero) * (w - w_zero[m])         (int32, modulo 2^32)
//   v[m] = float32(s[m]) * ((x_scale * w_scale[m]) / y_scale)                          (float32)
//   y    = saturate(round half to even(v[m]) + y_zero)
//
// The order of the float32 operations is part of the definition: results are equal on every machine.
#pragma once

#include <cstdint>
#include <vector>

#include "core/problem.h"

namespace ort_tconv {

enum class QuantizedType { kUint8, kInt8, kFloat32 };
const char* name(QuantizedType type);
inline int storage_bytes(QuantizedType type) { return type == QuantizedType::kFloat32 ? 4 : 1; }

// Element types of X, W (8 bits) and Y (any).  Y in float32 is what the integers stand for, not rounded.
struct QuantizedTypes { QuantizedType x, w, y; };

// Scales and zero points of a call, as the inputs hold them.
struct Quantization {
  float x_scale = 1.f, y_scale = 1.f;
  int32_t x_zero = 0;
  int32_t y_zero = 0;             // of float32: 0
  std::vector<float> w_scale;     // one, one for each output channel, or one for each of a group
  std::vector<int32_t> w_zero;    // one, or as many as scales
  std::vector<int32_t> bias;      // in units of x_scale * w_scale[m]; empty: none
  std::vector<float> float_bias;  // in the units of Y before it is quantised; empty: none
};

// The same for each output channel, ready to be applied.  An activation is a part of the bounds: rounding
// keeps order, so Relu and Clip before it are bounds after it.
struct Requantization {
  int32_t x_zero = 0;
  std::vector<int32_t> w_zero, bias;      // an entry for each output channel
  std::vector<float> multiplier, offset;  // v = float32(s) * multiplier + offset
  float low = 0, high = 0;                // of v
  int32_t y_zero = 0;
};

// Throws Error if a value or a number of values is not what it must be.
Requantization requantization(const Problem& problem, QuantizedTypes types, const Quantization& quantization);

// Throws Error unless the activation is one that has a form in integers.
void check_quantized_activation(const Activation& activation);

// By the definition above, tap by tap; x, w and y contiguous and of the types given.
void quantized_reference(const Problem& problem, QuantizedTypes types, const Requantization& r, const void* x,
                         const void* w, void* y);

}  // namespace ort_tconv
