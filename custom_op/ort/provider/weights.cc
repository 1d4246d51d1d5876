#include "ort/provider/weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/status.h"
#include "cpu/run.h"
#include "ort/provider/site.h"

namespace ort_tconv::provider {
namespace {

double from_half(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  double v = exponent == 0    ? std::ldexp(fraction, -24)
             : exponent == 31 ? (fraction ? std::nan("") : HUGE_VAL)
                              : std::ldexp(1024 + fraction, exponent - 25);
  return bits & 0x8000 ? -v : v;
}

double from_bfloat16(uint16_t bits) {
  const uint32_t word = static_cast<uint32_t>(bits) << 16;
  float v;
  std::memcpy(&v, &word, sizeof(v));
  return v;
}

uint16_t to_half(double value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double v = std::fabs(value);
  if (std::isnan(v)) return sign | 0x7e00;
  if (v < 0x1p-14) return sign | static_cast<uint16_t>(std::nearbyint(v * 0x1p24));  // may carry into 2^-14
  if (v >= 65520) return sign | 0x7c00;
  int exponent;
  const double fraction = std::frexp(v, &exponent);  // v = fraction * 2^exponent, fraction in [1/2, 1)
  const auto significand = static_cast<int>(std::nearbyint(std::ldexp(fraction, 11)));  // may be 2^11: carries
  return static_cast<uint16_t>(sign + ((exponent + 13) << 10) + significand);
}

uint16_t to_bfloat16(double value) {
  const float v = static_cast<float>(value);
  uint32_t word;
  std::memcpy(&word, &v, sizeof(word));
  if (std::isnan(v)) return static_cast<uint16_t>(word >> 16 | 0x40);
  return static_cast<uint16_t>((word + 0x7fff + (word >> 16 & 1)) >> 16);
}

template <class S, class Convert>
void fill(void* out, const std::vector<double>& values, Convert convert) {
  S* const p = static_cast<S*>(out);
  for (size_t i = 0; i < values.size(); ++i) p[i] = convert(values[i]);
}

template <class S, class Convert>
std::vector<double> read(const void* data, int64_t count, Convert convert) {
  const S* const p = static_cast<const S*>(data);
  std::vector<double> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) values[i] = convert(p[i]);
  return values;
}

// Two values a byte, the lower one first.
std::vector<double> read_nibbles(const void* data, int64_t count, bool is_signed) {
  const auto* const p = static_cast<const uint8_t*>(data);
  std::vector<double> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) {
    const int v = p[i / 2] >> (i % 2 * 4) & 15;
    values[i] = is_signed && v > 7 ? v - 16 : v;
  }
  return values;
}

std::shared_ptr<void> memory(int64_t bytes) {
  const auto buffer = std::make_shared<AlignedBuffer>(static_cast<size_t>(bytes));
  return {buffer, buffer->data.get()};
}

}  // namespace

std::vector<double> to_double(const Tensor& tensor) {
  const int64_t count = element_count(tensor.shape, "size of a constant");
  const auto same = [](auto v) { return static_cast<double>(v); };
  switch (tensor.type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64: return read<int64_t>(tensor.data, count, same);
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32: return read<int32_t>(tensor.data, count, same);
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16: return read<int16_t>(tensor.data, count, same);
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16: return read<uint16_t>(tensor.data, count, same);
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8: return read<int8_t>(tensor.data, count, same);
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8: return read<uint8_t>(tensor.data, count, same);
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT4: return read_nibbles(tensor.data, count, true);
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT4: return read_nibbles(tensor.data, count, false);
    default: break;
  }
  const auto dtype = float_type(tensor.type);
  require(dtype.has_value(), "a constant is neither of floats nor of integers");
  switch (*dtype) {
    case DType::kFloat32: return read<float>(tensor.data, count, same);
    case DType::kFloat64: return read<double>(tensor.data, count, same);
    case DType::kFloat16: return read<uint16_t>(tensor.data, count, from_half);
    case DType::kBFloat16: return read<uint16_t>(tensor.data, count, from_bfloat16);
  }
  fail("unknown element type");
}

std::shared_ptr<const void> rounded(const std::vector<double>& values, DType dtype) {
  const auto result = memory(static_cast<int64_t>(values.size()) * storage_bytes(dtype));
  switch (dtype) {
    case DType::kFloat32: fill<float>(result.get(), values, [](double v) { return static_cast<float>(v); }); break;
    case DType::kFloat64: fill<double>(result.get(), values, [](double v) { return v; }); break;
    case DType::kFloat16: fill<uint16_t>(result.get(), values, to_half); break;
    case DType::kBFloat16: fill<uint16_t>(result.get(), values, to_bfloat16); break;
  }
  return result;
}

void check_range(const std::vector<double>& values, DType dtype, const char* what) {
  if (dtype == DType::kFloat64) return;
  // The least numbers that are rounded to infinity.
  const double limit = dtype == DType::kFloat16 ? 65520 : dtype == DType::kFloat32 ? 0x1.ffffffp127 : 0x1.ffp127;
  for (double v : values)
    if (std::isfinite(v) && std::fabs(v) >= limit) refuse("the folded ", what, " exceed the range of ", name(dtype));
}

void check_scale(const std::vector<double>& scale, const std::function<std::vector<double>()>& largest, DType dtype) {
  constexpr double kMild = 0x1p-10;  // what weights of usual magnitudes bear
  const auto severe = [](double s) { return s != 0 && std::fabs(s) < kMild; };
  if (std::none_of(scale.begin(), scale.end(), severe)) return;
  // Products of less than this with the input would be subnormal, on which processors are many times slower, or the
  // weights themselves would lose digits.
  const double least = dtype == DType::kFloat64 ? 0x1p-968 : dtype == DType::kFloat16 ? 0x1p-14 : 0x1p-100;
  const std::vector<double> values = largest();
  for (size_t m = 0; m < values.size(); ++m) {
    const double left = std::fabs(scale[scale.size() == 1 ? 0 : m]) * values[m];
    if (left > 0 && left < least && values[m] >= least)
      refuse("folded into the weights it would make those of channel ", m, " as small as ", left, ", which ",
             name(dtype), " computes slowly or not exactly");
  }
}

std::shared_ptr<const void> copy_of(const void* data, int64_t bytes) {
  const auto result = memory(bytes);
  if (bytes > 0) std::memcpy(result.get(), data, static_cast<size_t>(bytes));
  return result;
}

}  // namespace ort_tconv::provider
