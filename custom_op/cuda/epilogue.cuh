// Bias, residual and activation: the last thing done to a sum before it is stored.
#pragma once

#include <cmath>

#include "cuda/intrinsics.h"

namespace ort_tconv::cuda {

// A 16-byte piece of storage.
template <class T> struct alignas(16) Piece {
  static constexpr int kCount = 16 / sizeof(T);
  T v[kCount];
};

template <class A> TCONV_DEVICE A clip(A v, A low, A high) { return v < low ? low : (v > high ? high : v); }

// v[i] = f(v[i]).  Comparisons are written so that NaN passes through; formulas are those of core/reference.cc.
template <class A, int n> TCONV_DEVICE void activate(A (&v)[n], const Epilogue& e, int channel) {
  const A a = e.slopes ? A(load(e.slopes + channel)) : A(e.a), b = A(e.b);
#define TCONV_EACH(formula)                  \
  TCONV_UNROLL for (int i = 0; i < n; ++i) { \
    const A u = v[i];                        \
    v[i] = formula;                          \
  }                                          \
  break
  switch (e.activation) {
    case ActivationKind::kNone: break;
    case ActivationKind::kRelu: TCONV_EACH(u < 0 ? A(0) : u);
    case ActivationKind::kLeakyRelu:
    case ActivationKind::kPRelu: TCONV_EACH(u < 0 ? a * u : u);
    case ActivationKind::kClip: TCONV_EACH(clip(u, a, b));
    case ActivationKind::kSigmoid: TCONV_EACH(1 / (1 + std::exp(-u)));
    case ActivationKind::kTanh: TCONV_EACH(std::tanh(u));
    case ActivationKind::kHardSigmoid: TCONV_EACH(clip(a * u + b, A(0), A(1)));
    case ActivationKind::kHardSwish: TCONV_EACH(u * clip(u / 6 + A(0.5), A(0), A(1)));
    case ActivationKind::kSilu: TCONV_EACH(u / (1 + std::exp(-u)));
    case ActivationKind::kElu: TCONV_EACH(u < 0 ? a * std::expm1(u) : u);
    case ActivationKind::kSoftplus: TCONV_EACH((u > 0 ? u : A(0)) + std::log1p(std::exp(u > 0 ? -u : u)));
    case ActivationKind::kGelu: TCONV_EACH(A(0.5) * u * std::erfc(u * A(-0.70710678118654752440)));
    case ActivationKind::kGeluTanh:
      TCONV_EACH(A(0.5) * u * (1 + std::tanh(A(0.79788456080286535588) * (u + A(0.044715) * u * u * u))));
  }
#undef TCONV_EACH
}

// y[at .. at + n) from the sums of one output channel, where mask says so; `whole` stores a vector.  What is
// not the last of a sum's parts is stored as it is.
template <bool last, class T, class A, int n>
TCONV_DEVICE void finish(T* y, int64_t at, A (&sums)[n], uint32_t mask, bool whole, const Epilogue& e, int channel) {
  static_assert(n == Piece<T>::kCount || n == 1, "a vector or an element");
  if constexpr (last) {
    const T* residual = static_cast<const T*>(e.residual);
    const A bias = e.bias ? A(to_float(load(static_cast<const T*>(e.bias) + channel))) : A(0);
    TCONV_UNROLL
    for (int i = 0; i < n; ++i) sums[i] += bias;
    if (residual && whole) {
      const Piece<T> z = load(reinterpret_cast<const Piece<T>*>(residual + at));
      TCONV_UNROLL
      for (int i = 0; i < n; ++i) sums[i] += A(to_float(z.v[i]));
    } else if (residual) {
      TCONV_UNROLL
      for (int i = 0; i < n; ++i)
        if (mask >> i & 1) sums[i] += A(to_float(load(residual + at + i)));
    }
    activate(sums, e, channel);
  }
  if (whole) {
    Piece<T> out;
    TCONV_UNROLL
    for (int i = 0; i < n; ++i) out.v[i % Piece<T>::kCount] = from_float<T>(sums[i]);
    store(reinterpret_cast<Piece<T>*>(y + at), out);
  } else {
    TCONV_UNROLL
    for (int i = 0; i < n; ++i)
      if (mask >> i & 1) store(y + at + i, from_float<T>(sums[i]));
  }
}

}  // namespace ort_tconv::cuda
