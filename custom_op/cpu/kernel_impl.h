// Microkernels, written once in GCC/Clang vector extensions.  Each kernel_<isa>.cc defines
//   ORT_TCONV_VECTOR_BYTES  bytes of a vector register
//   ORT_TCONV_MAX_VECTORS   vectors of output channels a gemm tile takes (6 pixels x NV accumulators)
//   ORT_TCONV_MAX_ROWS      rows of positions a row tile takes (at least kMaxPartRows)
//   ORT_TCONV_SET           name of the KernelSet to define
//   ORT_TCONV_NAME          its printed name
// and includes this file.  Everything is in an anonymous namespace and no std:: function is called:
// see kernel.h.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include <cstring>
#include <type_traits>
#include <utility>

#include "cpu/kernel.h"
#include "cpu/plane_impl.h"

namespace ort_tconv {
namespace {

template <class T>
struct Simd {
  static constexpr int L = ORT_TCONV_VECTOR_BYTES / sizeof(T);
  typedef T Vec __attribute__((vector_size(ORT_TCONV_VECTOR_BYTES)));
};
template <class T> using Vec = typename Simd<T>::Vec;

template <class T>
inline __attribute__((always_inline)) Vec<T> loadu(const T* p) {
  Vec<T> v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
template <class T>
inline __attribute__((always_inline)) void storeu(T* p, Vec<T> v) {
  std::memcpy(p, &v, sizeof(v));
}

#if defined(__x86_64__) && defined(__FMA__) && (ORT_TCONV_VECTOR_BYTES == 32 || defined(__AVX512F__))
#define ORT_TCONV_ASM 1
#else
#define ORT_TCONV_ASM 0
#endif
#if defined(__x86_64__) && !defined(__AVX__) && ORT_TCONV_VECTOR_BYTES == 16
#define ORT_TCONV_SSE 1
#else
#define ORT_TCONV_SSE 0
#endif

// sum += s * v.  Said in the processor's words where these are known to be right: compilers like to sum into the
// register of s or v, and then have to move registers about in long loops.
template <class T>
inline __attribute__((always_inline)) void multiply_add(Vec<T>& sum, Vec<T> s, Vec<T> v) {
#if ORT_TCONV_ASM
  if constexpr (sizeof(T) == 4) asm("vfmadd231ps %1, %2, %0" : "+v"(sum) : "v"(s), "v"(v));
  else asm("vfmadd231pd %1, %2, %0" : "+v"(sum) : "v"(s), "v"(v));
#elif ORT_TCONV_SSE
  // Both results replace an operand.
  Vec<T> product;
  if constexpr (sizeof(T) == 4)
    asm("movups %3, %1\n\tmulps %2, %1\n\taddps %1, %0" : "+x"(sum), "=&x"(product) : "x"(s), "xm"(v));
  else asm("movupd %3, %1\n\tmulpd %2, %1\n\taddpd %1, %0" : "+x"(sum), "=&x"(product) : "x"(s), "xm"(v));
#else
  sum += s * v;
#endif
}
// sums[i] += s * v[i].
template <class T, int N>
inline __attribute__((always_inline)) void multiply_add(Vec<T> (&sums)[N], Vec<T> s, const Vec<T> (&v)[N]) {
#if ORT_TCONV_SSE
  for (int i = 0; i + 1 < N; ++i) multiply_add<T>(sums[i], s, v[i]);
  // s has served, and its place is free for the product.
  if constexpr (sizeof(T) == 4) asm("mulps %2, %1\n\taddps %1, %0" : "+x"(sums[N - 1]), "+x"(s) : "x"(v[N - 1]));
  else asm("mulpd %2, %1\n\taddpd %1, %0" : "+x"(sums[N - 1]), "+x"(s) : "x"(v[N - 1]));
#else
  for (int i = 0; i < N; ++i) multiply_add<T>(sums[i], s, v[i]);
#endif
}
// sum += s * v[0..L-1], which is read for this alone.
template <class T>
inline __attribute__((always_inline)) void multiply_add(Vec<T>& sum, Vec<T> s, const T* v) {
#if ORT_TCONV_ASM
  typedef T Unaligned __attribute__((vector_size(ORT_TCONV_VECTOR_BYTES), aligned(sizeof(T)), may_alias));
  const auto& m = *reinterpret_cast<const Unaligned*>(v);
  if constexpr (sizeof(T) == 4) asm("vfmadd231ps %1, %2, %0" : "+v"(sum) : "m"(m), "v"(s));
  else asm("vfmadd231pd %1, %2, %0" : "+v"(sum) : "m"(m), "v"(s));
#else
  sum += s * loadu(v);
#endif
}
template <class T>
inline __attribute__((always_inline)) Vec<T> broadcast(T s) {
  return s - Vec<T>{};
}

// ---- 16-bit storage ---------------------------------------------------------------------------------
// Branch-free, so that loops over them vectorise.

inline __attribute__((always_inline)) float as_float(uint32_t u) {
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
inline __attribute__((always_inline)) uint32_t as_bits(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  return u;
}

inline __attribute__((always_inline)) float to_compute(float v) { return v; }
inline __attribute__((always_inline)) double to_compute(double v) { return v; }
inline __attribute__((always_inline)) float to_compute(BFloat16 v) { return as_float(uint32_t(v.bits) << 16); }
inline __attribute__((always_inline)) float to_compute(Half v) {
  const uint32_t w = uint32_t(v.bits) << 16, sign = w & 0x80000000u, two_w = w + w;
  // Normal: move the exponent up by 112 (224 - 112 through the scale keeps Inf and NaN).
  const float normal = as_float((two_w >> 4) + (0xE0u << 23)) * as_float(0x7800000u);
  // Subnormal: place the mantissa in a float of known exponent and take that away again.
  const float subnormal = as_float((two_w >> 17) | (126u << 23)) - 0.5f;
  const uint32_t bits = two_w < (1u << 27) ? as_bits(subnormal) : as_bits(normal);
  return as_float(sign | bits);
}

inline __attribute__((always_inline)) void from_compute(float v, float& out) { out = v; }
inline __attribute__((always_inline)) void from_compute(double v, double& out) { out = v; }
inline __attribute__((always_inline)) void from_compute(float v, BFloat16& out) {
  const uint32_t u = as_bits(v);
  const uint32_t rounded = (u + 0x7FFFu + ((u >> 16) & 1u)) >> 16;  // nearest, ties to even
  const uint32_t nan = (u >> 16) | 0x40u;
  out.bits = static_cast<uint16_t>((u & 0x7FFFFFFFu) > 0x7F800000u ? nan : rounded);
}
inline __attribute__((always_inline)) void from_compute(float v, Half& out) {
  const uint32_t u = as_bits(v), sign = (u >> 16) & 0x8000u, mag = u & 0x7FFFFFFFu;
  // Adding a power of two 13 bits above the last kept mantissa bit rounds to nearest even, also for
  // results that are subnormal in half precision.
  const float scaled = as_float(mag) * as_float(0x77800000u) * as_float(0x08800000u);
  const uint32_t shl = mag + mag;
  uint32_t bias = shl & 0xFF000000u;
  bias = bias < 0x71000000u ? 0x71000000u : bias;
  const uint32_t sum = as_bits(as_float((bias >> 1) + 0x07800000u) + scaled);
  const uint32_t nonsign = ((sum >> 13) & 0x7C00u) + (sum & 0x0FFFu);
  out.bits = static_cast<uint16_t>(sign | (shl > 0xFF000000u ? 0x7E00u : nonsign));
}

// ---- gemm: lanes are output channels ------------------------------------------------------------------

// As many of 8 bits as a vector has lanes.
template <class T>
inline __attribute__((always_inline)) Vec<T> load_integers(const int8_t* w) {
  static_assert(sizeof(T) == 4);
  Vec<T> v;
#if defined(__AVX2__)
  const auto eight = [](const int8_t* at) __attribute__((always_inline)) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at))));
  };
  if constexpr (sizeof(v) == 32) {
    v = reinterpret_cast<Vec<T>>(eight(w));
  } else {
#ifdef __AVX512F__
    v = reinterpret_cast<Vec<T>>(
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w)))));
#else
    const __m256 half[2] = {eight(w), eight(w + 8)};
    std::memcpy(&v, half, sizeof(v));
#endif
  }
#elif defined(__SSE2__) || defined(__aarch64__)
  static_assert(sizeof(v) == 16);
  uint32_t four;
  std::memcpy(&four, w, sizeof(four));
#ifdef __SSE2__  // each byte to the top of a lane, then down with its sign
  const __m128i bytes = _mm_cvtsi32_si128(static_cast<int>(four)), pairs = _mm_unpacklo_epi8(bytes, bytes);
  v = reinterpret_cast<Vec<T>>(_mm_cvtepi32_ps(_mm_srai_epi32(_mm_unpacklo_epi16(pairs, pairs), 24)));
#else
  const int16x8_t wide = vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(four)));
  v = reinterpret_cast<Vec<T>>(vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))));
#endif
#else
  for (int i = 0; i < Simd<T>::L; ++i) v[i] = w[i];
#endif
  return v;
}

// A vector of weights.
template <class T, class W>
inline __attribute__((always_inline)) Vec<T> load_weights(const W* w) {
  if constexpr (sizeof(W) == sizeof(T)) {
    return loadu(w);
  } else if constexpr (sizeof(W) == 1) {
    return load_integers<T>(w);
  } else {
    static_assert(sizeof(T) == 4);
    typedef uint16_t Bits16 __attribute__((vector_size(ORT_TCONV_VECTOR_BYTES / 2)));
    typedef uint32_t Bits32 __attribute__((vector_size(ORT_TCONV_VECTOR_BYTES)));
    [[maybe_unused]] Bits16 bits;
    std::memcpy(&bits, w, sizeof(bits));
    if constexpr (std::is_same_v<W, BFloat16>) {
      return reinterpret_cast<Vec<T>>(__builtin_convertvector(bits, Bits32) << 16);
    } else {
#if defined(__F16C__)
      Vec<T> v;
      if constexpr (sizeof(v) == 32) {
        v = reinterpret_cast<Vec<T>>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w))));
      } else {
#ifdef __AVX512F__
        v = reinterpret_cast<Vec<T>>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w))));
#else
        const __m256 half[2] = {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w))),
                                _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w + 8)))};
        std::memcpy(&v, half, sizeof(v));
#endif
      }
      return v;
#elif defined(__aarch64__)
      return reinterpret_cast<Vec<T>>(vcvt_f32_f16(vld1_f16(reinterpret_cast<const __fp16*>(w))));
#else  // as to_compute(Half)
      const Bits32 wide = __builtin_convertvector(bits, Bits32) << 16, two_w = wide + wide;
      const Vec<T> normal = reinterpret_cast<Vec<T>>((two_w >> 4) + (0xE0u << 23)) * as_float(0x7800000u);
      const Vec<T> subnormal = reinterpret_cast<Vec<T>>((two_w >> 17) | (126u << 23)) - 0.5f;
      const Bits32 small = reinterpret_cast<Bits32>(two_w < (1u << 27));
      const Bits32 magnitude =
          (reinterpret_cast<Bits32>(subnormal) & small) | (reinterpret_cast<Bits32>(normal) & ~small);
      return reinterpret_cast<Vec<T>>(magnitude | (wide & 0x80000000u));
#endif
    }
  }
}

// Weights to fetch: all cache lines from `line` on to `end`, which moves on by `step` bytes with each channel, and
// the same of further streams, `part` bytes apart.
struct Ahead {
  const char *line, *end;
  int64_t step, part;
};
constexpr int64_t kFetchChannels = 16;  // after so many channels, lines are asked for

// Adds one tap of P pixels, whose sums over every U-th channel are kept apart.
template <class T, class W, int P, int NV, int U = sums_apart(P, NV)>
inline __attribute__((always_inline)) void gemm_tap(const T* const* x, const W* w, int64_t channels, Ahead& ahead,
                                                    Vec<T> (*acc)[P][NV]) {
  constexpr int L = Simd<T>::L, kChannels = 4;
  static_assert(kChannels % U == 0 && kFetchChannels % kChannels == 0);
  const auto add = [&](int64_t c, const W* weights, Vec<T>(&to)[P][NV]) __attribute__((always_inline)) {
    Vec<T> b[NV];
    for (int v = 0; v < NV; ++v) b[v] = load_weights<T>(weights + v * L);
    for (int p = 0; p < P; ++p) {
      const Vec<T> s = broadcast(x[p][c]);
      multiply_add<T>(to[p], s, b);
    }
  };
  for (int64_t c = 0, end = 0; c < channels;) {
    end = channels - c > kFetchChannels ? c + kFetchChannels : channels;
    for (ahead.end += ahead.step * (end - c); ahead.line < ahead.end; ahead.line += 64)
      for (int s = 0; s < kFetchStreams; ++s) __builtin_prefetch(ahead.line + s * ahead.part);
    // Several at once: on cores that two threads share, every instruction but the multiply-adds counts.
    for (; c + kChannels <= end; c += kChannels, w += kChannels * NV * L)
#pragma GCC unroll 4
      for (int u = 0; u < kChannels; ++u) add(c + u, w + u * NV * L, acc[u % U]);
    for (; c < end; ++c, w += NV * L) add(c, w, acc[0]);
  }
}

// P pixels from pixel i on.
template <class T, class W, int P, int NV>
inline __attribute__((always_inline)) void gemm_block(const GemmArgs<T>& a, int64_t i, Ahead& ahead) {
  constexpr int L = Simd<T>::L;
  const T* x[P];
  const W* w = static_cast<const W*>(a.w);
  constexpr int U = sums_apart(P, NV);
  Vec<T> acc[U][P][NV] = {};
  bool add = a.accumulate;
  const auto leave = [&]() __attribute__((always_inline)) {
    for (int p = 0; p < P; ++p)
      for (int v = 0; v < NV; ++v) {
        T* const to = a.acc + a.acc_offset[i + p] + v * L;
        for (int u = 1; u < U; ++u) acc[0][p][v] += acc[u][p][v];
        storeu(to, add ? acc[0][p][v] + loadu(to) : acc[0][p][v]);
      }
  };
  const int64_t most = a.most_summed > 0 ? a.most_summed : INT64_MAX;
  int64_t summed = 0;
  for (int64_t t = 0; t < a.ntaps; ++t) {
    for (int p = 0; p < P; ++p) x[p] = a.x + a.x_offset[i + p] + a.taps[t];
    const W* from = w + (a.panels ? a.panels[t] : t) * a.channels * NV * L;
    for (int64_t c = 0; c < a.channels;) {
      if (summed == most) {
        leave();
        add = true;
        summed = 0;
        for (int u = 0; u < U; ++u)
          for (int p = 0; p < P; ++p)
            for (int v = 0; v < NV; ++v) acc[u][p][v] = Vec<T>{};
      }
      const int64_t n = a.channels - c < most - summed ? a.channels - c : most - summed;
      gemm_tap<T, W, P, NV>(x, from, n, ahead, acc);
      for (int p = 0; p < P; ++p) x[p] += n;
      from += n * NV * L;
      c += n;
      summed += n;
    }
  }
  leave();
}

template <class T, class W, int NV>
void gemm(const GemmArgs<T>& a) {
  Ahead ahead = {a.ahead, a.ahead, a.ahead ? a.ahead_step : 0, a.ahead_part};
  // Full blocks, then what is left as one or two of nearly equal size.
  for (int64_t i = 0, rest = a.count; rest > 0;) {
    const int64_t n = rest == kMaxPixels || rest >= 2 * kMaxPixels ? kMaxPixels
                      : rest > kMaxPixels                          ? (rest + 1) / 2
                                                                   : rest;
    switch (n) {
      case 1: gemm_block<T, W, 1, NV>(a, i, ahead); break;
      case 2: gemm_block<T, W, 2, NV>(a, i, ahead); break;
      case 3: gemm_block<T, W, 3, NV>(a, i, ahead); break;
      case 4: gemm_block<T, W, 4, NV>(a, i, ahead); break;
      case 5: gemm_block<T, W, 5, NV>(a, i, ahead); break;
      default: gemm_block<T, W, kMaxPixels, NV>(a, i, ahead); break;
    }
    i += n;
    rest -= n;
  }
}

// ---- rows: lanes are positions along a row ------------------------------------------------------------

// Adds the taps of a segment that meets R rows from row F on.
template <class T, int NP, int F, int R>
inline __attribute__((always_inline)) void rows_segment(const RowsArgs<T>& a, int64_t i, int64_t ntaps,
                                                        const ptrdiff_t*& taps, const T*& w, Vec<T> (*acc)[NP]) {
  constexpr int L = Simd<T>::L;
  for (int64_t t = 0; t < ntaps; ++t) {
    const T* x = a.x + i + *taps++;
    for (int64_t c = 0; c < a.channels; ++c, x += a.channel_stride, w += R) {
      // The shorter side stays in registers.
      if constexpr (R == 1) {
        const Vec<T> s = broadcast(*w);
        for (int p = 0; p < NP; ++p) multiply_add<T>(acc[F][p], s, x + p * L);
      } else if constexpr (R < NP) {
        Vec<T> s[R];
        for (int n = 0; n < R; ++n) s[n] = broadcast(w[n]);
        for (int p = 0; p < NP; ++p) {
          const Vec<T> v = loadu(x + p * L);
          for (int n = 0; n < R; ++n) multiply_add<T>(acc[F + n][p], s[n], v);
        }
      } else {
        Vec<T> v[NP];
        for (int p = 0; p < NP; ++p) v[p] = loadu(x + p * L);
        for (int n = 0; n < R; ++n) {
          const Vec<T> s = broadcast(w[n]);
          multiply_add<T>(acc[F + n], s, v);
        }
      }
    }
  }
}

// Finds the segment's rows among those of NB rows.
template <class T, int NB, int NP, int F = 0, int R = 1>
inline __attribute__((always_inline)) void rows_part(const RowsArgs<T>& a, int64_t i, const RowSegment& s,
                                                     const ptrdiff_t*& taps, const T*& w, Vec<T> (*acc)[NP]) {
  if (s.first == F && s.rows == R) rows_segment<T, NP, F, R>(a, i, s.taps, taps, w, acc);
  else if constexpr (F + R < NB) rows_part<T, NB, NP, F, R + 1>(a, i, s, taps, w, acc);
  else if constexpr (F + 1 < NB) rows_part<T, NB, NP, F + 1, 1>(a, i, s, taps, w, acc);
}

template <class T, int NB, int NP>
inline __attribute__((always_inline)) void rows_chunk(const RowsArgs<T>& a, int64_t i) {
  constexpr int L = Simd<T>::L;
  Vec<T> acc[NB][NP] = {};
  const ptrdiff_t* taps = a.taps;
  const T* w = a.w;
  for (int64_t s = 0; s < a.nsegments; ++s) {
    if constexpr (NB <= kMaxPartRows) rows_part<T, NB, NP>(a, i, a.segments[s], taps, w, acc);
    else rows_segment<T, NP, 0, NB>(a, i, a.segments[s].taps, taps, w, acc);
  }
  if (a.accumulate)
    for (int n = 0; n < NB; ++n)
      for (int p = 0; p < NP; ++p) acc[n][p] += loadu(a.out[n] + i + p * L);
  for (int n = 0; n < NB; ++n)
    for (int p = 0; p < NP; ++p) storeu(a.out[n] + i + p * L, acc[n][p]);
}

template <class T, int NB>
void rows(const RowsArgs<T>& a) {
  constexpr int L = Simd<T>::L;
  // NB*NP accumulators, NP positions and a weight: within 16 registers, or 32.
  constexpr int kBudget = ORT_TCONV_MAX_ROWS > 4 ? 24 : 12;
  constexpr int NP = kBudget / NB > 6 ? 6 : kBudget / NB;
  int64_t i = 0;
  for (; i + NP * L <= a.count; i += NP * L) rows_chunk<T, NB, NP>(a, i);
  if constexpr (NP > 2)
    for (; i + 2 * L <= a.count; i += 2 * L) rows_chunk<T, NB, 2>(a, i);
  for (; i < a.count; i += L) rows_chunk<T, NB, 1>(a, i);
}

template <class T>
bool within(const T* v, int64_t n, T limit) {
  constexpr int L = Simd<T>::L;
  const Vec<T> most = limit - Vec<T>{};
  auto outside = ~(loadu(v) <= most);  // integer lanes; replaced below, gives the type
  outside ^= outside;
  for (int64_t i = 0; i < n; i += L) {
    const Vec<T> x = loadu(v + i);
    outside |= ~((x <= most) & (-x <= most));
  }
  bool any = false;
  for (int l = 0; l < L; ++l) any = any || outside[l] != 0;
  return !any;
}

// ---- data movement --------------------------------------------------------------------------------------

template <class T, int H, int... I>
inline __attribute__((always_inline)) void exchange(Vec<T>& a, Vec<T>& b, std::integer_sequence<int, I...>) {
  constexpr int L = Simd<T>::L;
  const Vec<T> lo = __builtin_shufflevector(a, b, ((I & H) ? L + I - H : I)...);
  const Vec<T> hi = __builtin_shufflevector(a, b, ((I & H) ? L + I : I + H)...);
  a = lo;
  b = hi;
}

// Transposes blocks of N x N values side by side in N vectors: swaps the off-diagonal H x H blocks, H = N/2 .. 1.
template <class T, int N = Simd<T>::L, int H = N / 2>
inline __attribute__((always_inline)) void transpose_block(Vec<T>* r) {
  if constexpr (H > 0) {
    constexpr int L = Simd<T>::L;
    for (int i = 0; i < N; ++i)
      if (!(i & H)) exchange<T, H>(r[i], r[i + H], std::make_integer_sequence<int, L>());
    transpose_block<T, N, H / 2>(r);
  }
}

template <class T>
void transpose(const T* src, const int64_t* offset, int64_t n, int nv, T* dst, int64_t dst_stride) {
  constexpr int L = Simd<T>::L;
  int64_t i = 0;
  for (; i + L <= n; i += L) {
    for (int v = 0; v < nv; ++v) {
      Vec<T> r[L];
      for (int k = 0; k < L; ++k) r[k] = loadu(src + offset[i + k] + v * L);
      transpose_block<T>(r);
      for (int k = 0; k < L; ++k) storeu(dst + (v * L + k) * dst_stride + i, r[k]);
    }
  }
  for (; i < n; ++i)
    for (int l = 0; l < nv * L; ++l) dst[l * dst_stride + i] = src[offset[i] + l];
}

template <class V, int... I>
inline __attribute__((always_inline)) auto join(V lo, V hi, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(lo, hi, I...);
}

// A vector of M values: N at p, as many `step` further on, and so on.
template <class T, int N, int M = Simd<T>::L>
inline __attribute__((always_inline)) auto gather(const T* p, int64_t step) {
  if constexpr (N == M) {
    typedef T Piece __attribute__((vector_size(N * sizeof(T))));
    Piece v;
    std::memcpy(&v, p, sizeof(v));
    return v;
  } else {
    return join(gather<T, N, M / 2>(p, step), gather<T, N, M / 2>(p + M / 2 / N * step, step),
                std::make_integer_sequence<int, M>());
  }
}

template <class T, int... I>
inline __attribute__((always_inline)) Vec<T> one_each(const T* p, int64_t step, std::integer_sequence<int, I...>) {
  return Vec<T>{p[I * step]...};
}

template <class T>
bool place_columns(const ColumnsArgs<T>& a) {
  constexpr int L = Simd<T>::L, W = L < 4 ? L : 4;  // columns taken together
  const int64_t columns = a.columns, n = a.n / L * L;
  bool all = true;
  for (int64_t j = 0; j < columns; ++j) all = all && a.place[j] >= 0;
  // The last columns are taken with some of those before, but for one, which is sooner taken by itself.
  const int64_t blocks = columns < W || !all || n == 0 ? 0 : columns % W == 1 ? columns - 1 : columns;
  T* const dst = a.dst;
  const auto fetch = [&](int64_t m) __attribute__((always_inline)) {
    if (!a.ahead) return;
    for (int64_t i = 0; i < a.ahead_bytes; i += 64) __builtin_prefetch(a.ahead + m * a.ahead_step + i);
  };
  Vec<T> check{};  // sum of products with zero: NaN if a value was not finite
  for (int64_t next = 0; next < blocks; next += W) {
    const int64_t first = next + W <= blocks ? next : blocks - W;
    const int64_t p0 = a.place[first], p1 = a.place[first + 1], p2 = a.place[first + W / 2],
                  p3 = a.place[first + W - 1];
    const T* src = a.src + first;
    for (int64_t m = 0; m < a.count; ++m, src += a.src_step) {
      if (next == 0) fetch(m);
      T* const to = dst + m * a.dst_step;
      const T* rows = src;
      for (int64_t i = 0; i < n; i += L, rows += L * columns) {
        Vec<T> r[W];
        for (int k = 0; k < W; ++k) r[k] = gather<T, W>(rows + k * columns, W * columns);
        transpose_block<T, W>(r);
        Vec<T> zeros = r[0] * Vec<T>{};
        for (int k = 1; k < W; ++k) multiply_add<T>(zeros, Vec<T>{}, r[k]);
        check += zeros;
        storeu(to + p0 + i, r[0]);
        storeu(to + p1 + i, r[1]);
        storeu(to + p2 + i, r[W / 2]);
        storeu(to + p3 + i, r[W - 1]);
      }
    }
  }
  T rest = 0;
  for (int64_t j = n < a.width ? 0 : blocks; j < columns; ++j)
    for (int64_t m = 0; m < a.count; ++m) {
      if (j == 0 && blocks == 0) fetch(m);
      if (a.place[j] < 0) continue;
      const T* const src = a.src + m * a.src_step + j;
      T* const to = dst + m * a.dst_step + a.place[j];
      int64_t i = j < blocks ? n : 0;
      for (; i < n; i += L) {
        const Vec<T> v = one_each<T>(src + i * columns, columns, std::make_integer_sequence<int, L>());
        multiply_add<T>(check, Vec<T>{}, v);
        storeu(to + i, v);
      }
      for (; i < a.n; ++i) {
        rest += src[i * columns] * T(0);
        to[i] = src[i * columns];
      }
      for (; i < a.width; ++i) to[i] = T(0);
    }
  for (int l = 0; l < L; ++l) rest += check[l];
  return rest == T(0);
}

template <class T, int S>
inline __attribute__((always_inline)) void interleave_fixed(const T* const* src, int64_t n, T* __restrict dst) {
  const T* s[S];
  for (int r = 0; r < S; ++r) s[r] = src[r];
  for (int64_t i = 0; i < n; ++i)
    for (int r = 0; r < S; ++r) dst[i * S + r] = s[r][i];
}

template <class T>
void interleave(const T* const* src, int ways, int64_t n, T* dst) {
  switch (ways) {
    case 1: std::memcpy(dst, src[0], n * sizeof(T)); return;
    case 2: interleave_fixed<T, 2>(src, n, dst); return;
    case 3: interleave_fixed<T, 3>(src, n, dst); return;
    case 4: interleave_fixed<T, 4>(src, n, dst); return;
    default: break;
  }
  // Many ways: whole L x L blocks, so that both sides stay in cache lines.
  constexpr int L = Simd<T>::L;
  int r0 = 0;
  for (; r0 + L <= ways; r0 += L) {
    int64_t i = 0;
    for (; i + L <= n; i += L) {
      Vec<T> v[L];
      for (int k = 0; k < L; ++k) v[k] = loadu(src[r0 + k] + i);
      transpose_block<T>(v);
      for (int k = 0; k < L; ++k) storeu(dst + (i + k) * ways + r0, v[k]);
    }
    for (; i < n; ++i)
      for (int k = 0; k < L; ++k) dst[i * ways + r0 + k] = src[r0 + k][i];
  }
  for (; r0 < ways; ++r0)
    for (int64_t i = 0; i < n; ++i) dst[i * ways + r0] = src[r0][i];
}

template <class S>
using T_of = typename ComputeType<S>::type;

template <class S>
inline __attribute__((always_inline)) void to_compute(const S* src, int64_t n, T_of<S>* dst) {
  for (int64_t i = 0; i < n; ++i) dst[i] = to_compute(src[i]);
}
template <class S>
inline __attribute__((always_inline)) void from_compute(const T_of<S>* src, int64_t n, S* dst) {
  for (int64_t i = 0; i < n; ++i) from_compute(src[i], dst[i]);
}

#ifdef __F16C__  // the processor's own conversions, which compilers do not find in the arithmetic above
template <>
inline __attribute__((always_inline)) void to_compute<Half>(const Half* src, int64_t n, float* dst) {
  int64_t i = 0;
#ifdef __AVX512F__
  for (; i + 16 <= n; i += 16)
    _mm512_storeu_ps(dst + i, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(src + i))));
#endif
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(src + i))));
  for (; i < n; ++i) dst[i] = to_compute(src[i]);
}
template <>
inline __attribute__((always_inline)) void from_compute<Half>(const float* src, int64_t n, Half* dst) {
  int64_t i = 0;
#ifdef __AVX512F__
  for (; i + 16 <= n; i += 16)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst + i),
                        _mm512_cvtps_ph(_mm512_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#endif
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(dst + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  for (; i < n; ++i) from_compute(src[i], dst[i]);
}
#endif

template <class S>
void load(const S* src, int64_t n, T_of<S>* dst) {
  to_compute(src, n, dst);
}

void load_int8(const int8_t* src, int64_t n, float* dst) {
  for (int64_t i = 0; i < n; ++i) dst[i] = src[i];
}

template <class S>
void store(const T_of<S>* src, int64_t n, S* dst) {
  from_compute(src, n, dst);
}

template <class S>
inline __attribute__((always_inline)) Vec<T_of<S>> load_vector(const S* src, int n) {
  constexpr int L = Simd<T_of<S>>::L;
  if constexpr (sizeof(S) == sizeof(T_of<S>)) {
    if (n == L) return loadu(reinterpret_cast<const T_of<S>*>(src));
  }
  T_of<S> tmp[L] = {};
  if (n == L) to_compute(src, L, tmp);
  else
    for (int k = 0; k < n; ++k) tmp[k] = to_compute(src[k]);
  return loadu(tmp);
}

// Whole vectors, the last one placed to end with the run: for short runs a call of memcpy costs more than
// the copy.
template <class T>
inline __attribute__((always_inline)) void copy_run(const T* src, int64_t n, T* dst) {
  constexpr int L = Simd<T>::L;
  if (n < L) {
    for (int64_t i = 0; i < n; ++i) dst[i] = src[i];
    return;
  }
  for (int64_t i = 0; i + L < n; i += L) storeu(dst + i, loadu(src + i));
  storeu(dst + n - L, loadu(src + n - L));
}

template <class S>
void load_runs(const S* src, const WindowRun* runs, int64_t count, T_of<S>* dst) {
  for (int64_t r = 0; r < count; ++r) {
    const WindowRun& run = runs[r];
    if constexpr (sizeof(S) == sizeof(T_of<S>)) copy_run(src + run.source, run.n, dst);
    else load(src + run.source, run.n, dst);
    dst += run.n;
    // Whole vectors: what they write too much is written once more.
    for (int64_t i = 0; i < run.zeros; i += Simd<T_of<S>>::L) storeu(dst + i, Vec<T_of<S>>{});
    dst += run.zeros;
  }
}

template <class S>
void load_channels_last(const S* src, int64_t src_stride, int64_t n, int64_t channels, T_of<S>* dst,
                        int64_t dst_stride) {
  using T = T_of<S>;
  constexpr int L = Simd<T>::L;
  // Whole vectors are loaded, beyond the end of a run into other channels' as well, but not beyond the last one's end.
  const int64_t end = (channels - 1) * src_stride + n;
  for (int64_t c = 0; c < channels; c += L) {
    const int64_t nc = channels - c < L ? channels - c : L;
    for (int64_t next = 0; next < n; next += L) {
      const int ni = n < L ? static_cast<int>(n) : L;
      const int64_t i = n - next < ni ? n - ni : next;  // the last block ends with the run
      Vec<T> r[L];
      const S* const first = src + c * src_stride + i;
      if (nc == L && (c + L - 1) * src_stride + i + L <= end) {
        for (int k = 0; k < L; ++k) r[k] = load_vector(first + k * src_stride, L);
      } else {
        for (int k = 0; k < L; ++k) r[k] = k < nc ? load_vector(first + k * src_stride, ni) : Vec<T>{};
      }
      // The processor cannot guess where the next channels lie.
      for (int64_t k = c + L; k < c + 2 * L && k < channels; ++k) __builtin_prefetch(src + k * src_stride + i + ni - 1);
      transpose_block<T>(r);
      if (ni == L) {
        for (int k = 0; k < L; ++k) storeu(dst + (i + k) * dst_stride + c, r[k]);
      } else {
        for (int k = 0; k < ni; ++k) storeu(dst + (i + k) * dst_stride + c, r[k]);
      }
    }
  }
}

// ---- epilogue -------------------------------------------------------------------------------------------

// e^x to about 1 unit in the last place (Cody-Waite reduction by ln 2, degree-6 polynomial); 0 below and
// Inf above the range of float.  NaN passes.
inline __attribute__((always_inline)) float exp_(float x) {
  const float clamped = x < -104.f ? -104.f : (x > 89.f ? 89.f : x);
  const float shifted = clamped * 1.44269504088896341f + 12582912.f;  // round to nearest integer
  const float n = shifted - 12582912.f;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.f;
  // 2^n in two factors, as n may be below -126 or be 128.
  const int32_t k = static_cast<int32_t>(as_bits(shifted)) - 0x4B400000, h = k >> 1;
  return p * as_float(static_cast<uint32_t>(h + 127) << 23) * as_float(static_cast<uint32_t>(k - h + 127) << 23);
}
inline double exp_(double x) { return __builtin_exp(x); }

inline __attribute__((always_inline)) float tanh_(float x) {
  // Small arguments by an odd polynomial, the rest by 1 - 2/(e^2|x| + 1).
  const float ax = x < 0 ? -x : x, x2 = x * x;
  float p = -5.70498872745e-3f;
  p = p * x2 + 2.06390887954e-2f;
  p = p * x2 - 5.37397155531e-2f;
  p = p * x2 + 1.33314422036e-1f;
  p = p * x2 - 3.33332819422e-1f;
  const float small = p * x2 * x + x;
  const float large = 1.f - 2.f / (exp_(2.f * ax) + 1.f);
  const float signed_large = x < 0 ? -large : large;
  return ax < 0.625f ? small : signed_large;
}
inline double tanh_(double x) { return __builtin_tanh(x); }

inline __attribute__((always_inline)) float expm1_(float x) {
  // Near 0 by the series, elsewhere by e^x - 1 (no cancellation left beyond |x| = 0.5).
  float p = 2.48015873e-5f;
  p = p * x + 1.98412698e-4f;
  p = p * x + 1.38888889e-3f;
  p = p * x + 8.33333333e-3f;
  p = p * x + 4.16666667e-2f;
  p = p * x + 1.66666667e-1f;
  p = p * x + 0.5f;
  const float small = p * x * x + x;
  const float large = exp_(x) - 1.f;
  return x > -0.5f && x < 0.5f ? small : large;
}
inline double expm1_(double x) { return __builtin_expm1(x); }

// max(x, 0) + log(1 + e^-|x|); the logarithm by a minimax polynomial of e^-|x| (relative error 3e-8).
inline __attribute__((always_inline)) float softplus_(float x) {
  const float u = exp_(x > 0 ? -x : x);
  float p = 0.005232537630945444f;
  p = p * u - 0.0295046102f;
  p = p * u + 0.0782249272f;
  p = p * u - 0.136631593f;
  p = p * u + 0.191059664f;
  p = p * u - 0.248429716f;
  p = p * u + 0.333190948f;
  p = p * u - 0.499994934f;
  p = p * u + 0.99999994f;
  return (x > 0 ? x : 0) + p * u;
}
inline double softplus_(double x) { return (x > 0 ? x : 0) + __builtin_log1p(__builtin_exp(x > 0 ? -x : x)); }
// x times the normal distribution's Phi(x).  Phi(-|x|) = e^(-x^2/2) q / 2, where q = e^(z^2) erfc(z), z = |x|/sqrt(2),
// by a minimax polynomial of t = 1/(1 + z/2) (relative error 4e-8).  x^2 is the square of a 12-bit number,
// which is exact, and a small rest: its rounding would grow in the exponential.
inline __attribute__((always_inline)) float gelu_(float x) {
  float ax = x < 0 ? -x : x;
  ax = ax > 20.f ? 20.f : ax;  // Phi(-20) is 0; Inf would become NaN below
  const float t = 1.f / (1.f + 0.35355339059f * ax);
  float p = 0.0010279682464897633f;
  p = p * t - 0.0646234974f;
  p = p * t + 0.297557116f;
  p = p * t - 0.504385889f;
  p = p * t + 0.292233467f;
  p = p * t - 0.0341463462f;
  p = p * t + 0.205251396f;
  p = p * t + 0.242563605f;
  p = p * t + 0.282438904f;
  p = p * t + 0.282083243f;
  const float head = as_float((as_bits(ax) + 0x800u) & 0xFFFFF000u), e = 0.5f * (ax - head) * (ax + head);
  const float rest = 1.f - e * (1.f - e * (0.5f - e * 0.16666667f));
  const float tail = 0.5f * t * p * rest * exp_(-0.5f * head * head);
  return x * (x < 0 ? tail : 1.f - tail);
}
inline double gelu_(double x) { return 0.5 * x * __builtin_erfc(-0.70710678118654752440 * x); }

template <class T>
inline __attribute__((always_inline)) T clip_(T v, T lo, T hi) {
  return v < lo ? lo : (v > hi ? hi : v);
}

template <class T, class F>
inline __attribute__((always_inline)) void finish_with(const T* v, int64_t n, T scale, T bias, const T* z, T* y, F f) {
  if (z) {
    for (int64_t i = 0; i < n; ++i) y[i] = f(v[i] * scale + bias + z[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) y[i] = f(v[i] * scale + bias);
  }
}

template <class T>
__attribute__((noinline)) void finish_row(const T* v, int64_t n, T scale, T bias, const T* z, const Activation& act,
                                          T slope, T* y) {
  const T a = act.a, b = act.b;
  switch (act.kind) {
    case ActivationKind::kNone: finish_with(v, n, scale, bias, z, y, [](T u) { return u; }); return;
    case ActivationKind::kRelu: finish_with(v, n, scale, bias, z, y, [](T u) { return u < 0 ? T(0) : u; }); return;
    case ActivationKind::kLeakyRelu:
      finish_with(v, n, scale, bias, z, y, [a](T u) { return u < 0 ? a * u : u; });
      return;
    case ActivationKind::kPRelu:
      finish_with(v, n, scale, bias, z, y, [slope](T u) { return u < 0 ? slope * u : u; });
      return;
    case ActivationKind::kClip: finish_with(v, n, scale, bias, z, y, [a, b](T u) { return clip_(u, a, b); }); return;
    case ActivationKind::kSigmoid: finish_with(v, n, scale, bias, z, y, [](T u) { return 1 / (1 + exp_(-u)); }); return;
    case ActivationKind::kTanh: finish_with(v, n, scale, bias, z, y, [](T u) { return tanh_(u); }); return;
    case ActivationKind::kHardSigmoid:
      finish_with(v, n, scale, bias, z, y, [a, b](T u) { return clip_(a * u + b, T(0), T(1)); });
      return;
    case ActivationKind::kHardSwish:
      finish_with(v, n, scale, bias, z, y, [](T u) { return u * clip_(u * T(1.0 / 6) + T(0.5), T(0), T(1)); });
      return;
    case ActivationKind::kSilu: finish_with(v, n, scale, bias, z, y, [](T u) { return u / (1 + exp_(-u)); }); return;
    case ActivationKind::kElu:
      finish_with(v, n, scale, bias, z, y, [a](T u) { return u < 0 ? a * expm1_(u) : u; });
      return;
    case ActivationKind::kSoftplus: finish_with(v, n, scale, bias, z, y, [](T u) { return softplus_(u); }); return;
    case ActivationKind::kGelu: finish_with(v, n, scale, bias, z, y, [](T u) { return gelu_(u); }); return;
    case ActivationKind::kGeluTanh:
      finish_with(v, n, scale, bias, z, y, [](T u) {
        return T(0.5) * u * (1 + tanh_(T(0.79788456080286535588) * (u + T(0.044715) * u * u * u)));
      });
      return;
  }
}

// Of 16 bits, some vectors at a time.
template <class S>
void finish(const T_of<S>* v, const OutputRows& rows, T_of<S> scale, T_of<S> bias, const S* z, const Activation& act,
            T_of<S> slope, S* y, int64_t ahead) {
  using T = T_of<S>;
  for (int64_t r = 0; r < rows.count; ++r) {
    // A missing line costs more than the whole row's arithmetic; ask for the next row's while this one goes.
    for (int64_t i = 0; ahead != 0 && i < rows.n; i += 64 / static_cast<int64_t>(sizeof(S)))
      __builtin_prefetch(y + ahead + i, 1);
    if constexpr (sizeof(S) == sizeof(T)) {
      finish_row(v, rows.n, scale, bias, z, act, slope, y);
    } else {
      constexpr int64_t kPiece = 128;
      T results[kPiece], residual[kPiece];
      for (int64_t at = 0; at < rows.n; at += kPiece) {
        const int64_t n = rows.n - at < kPiece ? rows.n - at : kPiece;
        if (z) to_compute(z + at, n, residual);
        finish_row(v + at, n, scale, bias, z ? residual : nullptr, act, slope, results);
        from_compute(results, n, y + at);
      }
    }
    v += rows.sums_step;
    y += rows.outputs_step;
    if (z) z += rows.outputs_step;
  }
}

// ---- tables -----------------------------------------------------------------------------------------------

template <class T, class W, int NV>
constexpr void (*gemm_entry())(const GemmArgs<T>&) {
  constexpr bool stored = sizeof(T) == sizeof(W) || sizeof(T) == 4;  // fewer bits stand for float only
  if constexpr (stored && NV > 0 && NV <= ORT_TCONV_MAX_VECTORS) return gemm<T, W, NV>;
  else return nullptr;
}

template <class T, int NB>
constexpr void (*rows_entry())(const RowsArgs<T>&) {
  if constexpr (NB > 0 && NB <= ORT_TCONV_MAX_ROWS) return rows<T, NB>;
  else return nullptr;
}

template <class T>
constexpr PlaneTable<T> all_planes() {
  PlaneTable<T> table{};
  add_planes<Vec<T>, Copy, Input4, Input3, Input5, Input6>(&table);
  add_planes<Vec<T>, Copy, Output32, Output23, Output22, Output42, Output43>(&table);
  add_planes<Vec<T>, Copy, Weights32, Weights23, Weights22, Weights42, Weights43, Repeat<3>, Repeat<2>, Repeat<4>>(
      &table);
  return table;
}

template <class T>
constexpr Kernels<T> make_kernels() {
  return {Simd<T>::L,
          ORT_TCONV_MAX_VECTORS,
          ORT_TCONV_MAX_ROWS,
          {{gemm_entry<T, T, 0>(), gemm_entry<T, T, 1>(), gemm_entry<T, T, 2>(), gemm_entry<T, T, 3>(),
            gemm_entry<T, T, 4>()},
           {gemm_entry<T, Half, 0>(), gemm_entry<T, Half, 1>(), gemm_entry<T, Half, 2>(), gemm_entry<T, Half, 3>(),
            gemm_entry<T, Half, 4>()},
           {gemm_entry<T, BFloat16, 0>(), gemm_entry<T, BFloat16, 1>(), gemm_entry<T, BFloat16, 2>(),
            gemm_entry<T, BFloat16, 3>(), gemm_entry<T, BFloat16, 4>()},
           {gemm_entry<T, int8_t, 0>(), gemm_entry<T, int8_t, 1>(), gemm_entry<T, int8_t, 2>(),
            gemm_entry<T, int8_t, 3>(), gemm_entry<T, int8_t, 4>()}},
          {rows_entry<T, 0>(), rows_entry<T, 1>(), rows_entry<T, 2>(), rows_entry<T, 3>(), rows_entry<T, 4>(),
           rows_entry<T, 5>(), rows_entry<T, 6>(), rows_entry<T, 7>(), rows_entry<T, 8>(), rows_entry<T, 9>(),
           rows_entry<T, 10>(), rows_entry<T, 11>(), rows_entry<T, 12>()},
          within<T>,
          transpose<T>,
          place_columns<T>,
          all_planes<T>(),
          interleave<T>};
}

template <class S>
constexpr StorageKernels<S> make_storage() {
  return {load<S>, store<S>, load_runs<S>, load_channels_last<S>, finish<S>};
}

}  // namespace

extern const KernelSet ORT_TCONV_SET;
constexpr KernelSet kSet{ORT_TCONV_NAME,         make_kernels<float>(), make_kernels<double>(),   make_storage<float>(),
                         make_storage<double>(), make_storage<Half>(),  make_storage<BFloat16>(), load_int8};
const KernelSet ORT_TCONV_SET = kSet;

}  // namespace ort_tconv
