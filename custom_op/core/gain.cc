#include "core/gain.h"

#include "core/integers.h"

namespace ort_tconv {
namespace {

// Of moving a byte to or from memory; the plan charges the same for weights that no cache holds.
constexpr double kCostPerByte = 0.15;
// ONNX Runtime's DepthToSpace permutes on one thread: 0.9 to 5 for each byte it reads or writes, measured on
// two cores against Convs of 32 to 128 channels.
constexpr double kCostPerShuffledByte = 1.0;
// What it takes to copy a byte from one layout to the other, in bytes moved in order: one side is read or written
// eight or sixteen values at a time.  Measured: 2 to 4.
constexpr double kInStrides = 3;

}  // namespace

double moving_cost(double elements, DType dtype, bool shuffled) {
  return (shuffled ? kCostPerShuffledByte : kCostPerByte) * elements * storage_bytes(dtype);
}

double relayout_cost(double elements) {  // each is read and written once
  return moving_cost(2 * kInStrides * elements, DType::kFloat32);
}

double least_conv_cost(const Problem& conv, const Plan& direct, DType dtype, bool columns) {
  const auto images = static_cast<double>(conv.batch);
  const auto channels = static_cast<double>(conv.channels), taps = static_cast<double>(product(conv.kernel));
  const double input = images * channels * static_cast<double>(product(conv.in));
  const double positions = images * static_cast<double>(product(conv.out));
  const double weights = channels * static_cast<double>(conv.group_out()) * taps;
  const double unfolded = columns ? channels * taps * positions : 0;
  const double output = static_cast<double>(conv.out_channels) * positions;
  return direct.work.multiply_adds + moving_cost(input + weights + output + 2 * unfolded, dtype);
}

int64_t nominal_side(int axes) { return axes == 1 ? 1024 : axes == 2 ? 64 : axes == 3 ? 16 : 8; }

}  // namespace ort_tconv
