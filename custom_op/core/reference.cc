#include "core/reference.h"

#include <cmath>

#include "core/definition.h"

namespace ort_tconv {

double activate(const Activation& act, double v, int64_t m) {
  const double a = act.a, b = act.b;
  // Comparisons are written so that NaN passes through.
  const auto clip = [](double u, double lo, double hi) { return u < lo ? lo : (u > hi ? hi : u); };
  switch (act.kind) {
    case ActivationKind::kNone: return v;
    case ActivationKind::kRelu: return v < 0 ? 0 : v;
    case ActivationKind::kLeakyRelu: return v < 0 ? a * v : v;
    case ActivationKind::kPRelu: return v < 0 ? v * act.slopes[act.slopes.size() == 1 ? 0 : m] : v;
    case ActivationKind::kClip: return clip(v, a, b);
    case ActivationKind::kSigmoid: return 1 / (1 + std::exp(-v));
    case ActivationKind::kTanh: return std::tanh(v);
    case ActivationKind::kHardSigmoid: return clip(a * v + b, 0, 1);
    case ActivationKind::kHardSwish: return v * clip(v / 6 + 0.5, 0, 1);
    case ActivationKind::kSilu: return v / (1 + std::exp(-v));
    case ActivationKind::kElu: return v < 0 ? a * std::expm1(v) : v;
    case ActivationKind::kSoftplus: return v > 0 ? v + std::log1p(std::exp(-v)) : std::log1p(std::exp(v));
    case ActivationKind::kGelu: return 0.5 * v * std::erfc(-v * 0.70710678118654752440);
    case ActivationKind::kGeluTanh:
      return 0.5 * v * (1 + std::tanh(0.79788456080286535588 * (v + 0.044715 * v * v * v)));
  }
  return v;
}

std::vector<double> reference(const Problem& p, const double* x, const double* w, const double* b, const double* z) {
  const int64_t out = product(p.out);
  std::vector<double> y(static_cast<size_t>(p.batch * p.out_channels * out), 0.0);
  for_each_product(p, [&](int64_t ix, int64_t iw, int64_t iy, int64_t) { y[iy] += x[ix] * w[iw]; });
  for (int64_t n = 0; n < p.batch; ++n)
    for (int64_t m = 0; m < p.out_channels; ++m)
      for (int64_t o = 0; o < out; ++o) {
        const int64_t i = (n * p.out_channels + m) * out + o;
        y[i] = activate(p.activation, y[i] + (b ? b[m] : 0) + (z ? z[i] : 0), m);
      }
  return y;
}

}  // namespace ort_tconv
