// Arithmetic of sizes.
#pragma once

#include <cstdint>
#include <functional>
#include <numeric>

#include "core/problem.h"

namespace ort_tconv {

// a / b rounded up; b > 0.
constexpr int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b > 0); }
// The least multiple of b that is not below a; b > 0.
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
inline int64_t product(const Dims& v) { return std::accumulate(v.begin(), v.end(), int64_t{1}, std::multiplies<>()); }

}  // namespace ort_tconv
