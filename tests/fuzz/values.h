// What the fuzz targets share: a reader of the fuzzer's bytes, and tensors of every element type.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "core/plan.h"

namespace ort_tconv::fuzz {

// Turns the fuzzer's bytes into numbers; zeros after the end.
class Reader {
 public:
  Reader(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool empty() const { return size_ == 0; }
  uint8_t byte() { return size_ ? (--size_, *data_++) : 0; }
  // One of 0 .. n-1, n <= 256.
  int pick(int n) { return byte() % n; }
  int64_t between(int64_t low, int64_t high) { return low + byte() % (high - low + 1); }
  bool flip() { return byte() & 1; }
  int64_t word() {
    uint64_t v = 0;
    for (int i = 0; i < 8; ++i) v = v << 8 | byte();
    return static_cast<int64_t>(v);
  }
  template <class T, size_t N>
  const T& one_of(const T (&values)[N]) {
    return values[byte() % N];
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

// A generator whose numbers are the same with every standard library.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u + 1) {}
  uint64_t next() {
    state_ ^= state_ << 13, state_ ^= state_ >> 7, state_ ^= state_ << 17;
    return state_ * 0x2545F4914F6CDD1Du;
  }
  // Uniform in [-1, 1).
  double uniform() { return static_cast<double>(static_cast<int64_t>(next())) * 0x1p-63; }

 private:
  uint64_t state_;
};

struct Format {
  int fraction;  // stored bits of the significand
  int least;     // exponent of the smallest normal number
  int most;      // exponent of the greatest finite number
};

inline Format format(DType dtype) {
  switch (dtype) {
    case DType::kFloat64: return {52, -1022, 1023};
    case DType::kFloat32: return {23, -126, 127};
    case DType::kBFloat16: return {7, -126, 127};
    case DType::kFloat16: return {10, -14, 15};
  }
  return {};
}

// The greatest finite value.
inline double greatest(DType dtype) {
  const Format f = format(dtype);
  return std::ldexp(2 - std::ldexp(1, -f.fraction), f.most);
}

// Half of the spacing of subnormal numbers: the error of storing near zero.
inline double half_subnormal(DType dtype) {
  const Format f = format(dtype);
  return std::ldexp(1, f.least - f.fraction - 1);
}

// Nearest value of the type, ties to even.
inline double rounded(DType dtype, double v) {
  if (dtype == DType::kFloat64 || v == 0 || !std::isfinite(v)) return v;
  const Format f = format(dtype);
  const int exponent = std::max(std::ilogb(v), f.least);
  const double ulp = std::ldexp(1, exponent - f.fraction), r = std::nearbyint(v / ulp) * ulp;
  return std::fabs(r) > greatest(dtype) ? std::copysign(INFINITY, v) : r;
}

// Writes `v`, a value of the type or NaN.
inline void store(DType dtype, double v, char* at) {
  if (dtype == DType::kFloat64) {
    std::memcpy(at, &v, 8);
    return;
  }
  const float f = static_cast<float>(v);
  uint32_t u;
  std::memcpy(&u, &f, 4);
  uint16_t h = static_cast<uint16_t>(u >> 16);
  if (dtype == DType::kFloat32) {
    std::memcpy(at, &u, 4);
    return;
  }
  if (dtype == DType::kBFloat16 && std::isnan(v)) h |= 0x40;  // the payload may be in the lower half
  if (dtype == DType::kFloat16) {
    const uint16_t sign = h & 0x8000;
    const double a = std::fabs(v);
    if (std::isnan(v)) h = sign | 0x7E00;
    else if (std::isinf(v)) h = sign | 0x7C00;
    else if (a < 0x1p-14) h = sign | static_cast<uint16_t>(a * 0x1p24);
    else h = sign | static_cast<uint16_t>(((std::ilogb(a) + 15) << 10) | (u >> 13 & 0x3FF));
  }
  std::memcpy(at, &h, 2);
}

inline double fetch(DType dtype, const char* at) {
  if (dtype == DType::kFloat64) {
    double v;
    std::memcpy(&v, at, 8);
    return v;
  }
  if (dtype == DType::kFloat16) {
    uint16_t h;
    std::memcpy(&h, at, 2);
    const int exponent = h >> 10 & 31, fraction = h & 1023;
    const double v = exponent == 31 ? (fraction ? NAN : INFINITY)
                     : exponent     ? std::ldexp(1024 + fraction, exponent - 25)
                                    : std::ldexp(fraction, -24);
    return h & 0x8000 ? -v : v;
  }
  uint32_t u = 0;
  std::memcpy(reinterpret_cast<char*>(&u) + (dtype == DType::kBFloat16 ? 2 : 0), at,
              static_cast<size_t>(storage_bytes(dtype)));
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}

inline std::vector<char> stored(DType dtype, const std::vector<double>& v) {
  std::vector<char> bytes(v.size() * storage_bytes(dtype));
  for (size_t i = 0; i < v.size(); ++i) store(dtype, v[i], bytes.data() + i * storage_bytes(dtype));
  return bytes;
}

}  // namespace ort_tconv::fuzz
