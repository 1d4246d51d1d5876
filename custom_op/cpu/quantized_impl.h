// Microkernels of the quantised engine, written once in GCC/Clang vector extensions around one multiplication.  Each
// kernel_q8_<isa>.cc defines
//   ORT_TCONV_VECTOR_BYTES  bytes of a vector register
//   ORT_TCONV_WIDE          1: words hold two int16; 0: four bytes, for instructions that multiply those
//   ORT_TCONV_SIGNED        1: those bytes of the input are signed
//   ORT_TCONV_PIXELS        pixels a gemm microkernel takes at a time: 4 or 6
//   ORT_TCONV_MAX_VECTORS   vectors of output channels it may take
//   ORT_TCONV_EMULATED      1: the multiplication of byte words in plain arithmetic, for machines without it
//   ORT_TCONV_SET           name of the QuantizedKernels to define
//   ORT_TCONV_NAME          its printed name
//   ORT_TCONV_BASE          printed name of its KernelSet
// and includes this file.  Everything is in an anonymous namespace and no std:: function is called: see kernel.h.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include <cstring>
#include <utility>

#include "cpu/plane_impl.h"
#include "cpu/quantized_kernel.h"

namespace ort_tconv {
namespace {

#define ORT_TCONV_INLINE inline __attribute__((always_inline))

constexpr WordForm kForm = ORT_TCONV_WIDE     ? WordForm::kWide
                           : ORT_TCONV_SIGNED ? WordForm::kSignedBytes
                                              : WordForm::kUnsignedBytes;
constexpr int G = kForm == WordForm::kWide ? 2 : 4;  // channels of a word
constexpr int L = ORT_TCONV_VECTOR_BYTES / 4;

typedef int32_t Ints __attribute__((vector_size(ORT_TCONV_VECTOR_BYTES)));
typedef float Floats __attribute__((vector_size(ORT_TCONV_VECTOR_BYTES)));
typedef uint8_t Bytes16 __attribute__((vector_size(16)));
typedef float Floats4 __attribute__((vector_size(16)));

template <class V, class E>
ORT_TCONV_INLINE V loadu(const E* p) {
  V v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
template <class V, class E>
ORT_TCONV_INLINE void storeu(E* p, V v) {
  std::memcpy(p, &v, sizeof(v));
}
ORT_TCONV_INLINE Ints splat(uint32_t word) { return Ints{} + static_cast<int32_t>(word); }

// ---- the multiplication -----------------------------------------------------------------------------------

// Entry j of each word as an integer.
template <int J>
ORT_TCONV_INLINE Ints entry(Ints v, bool is_signed) {
  constexpr int bits = 32 / G;
  const Ints top = v << (32 - bits * (J + 1));
  if (is_signed) return top >> (32 - bits);
  typedef uint32_t Unsigned __attribute__((vector_size(ORT_TCONV_VECTOR_BYTES)));
  return (Ints)((Unsigned)top >> (32 - bits));
}

#if ORT_TCONV_EMULATED

// acc + x . w for words of four bytes, as vpdpbusd (x unsigned) or sdot (x signed) has it.
ORT_TCONV_INLINE Ints dot(Ints acc, Ints x, Ints w) {
  constexpr bool is_signed = kForm == WordForm::kSignedBytes;
  acc += entry<0>(x, is_signed) * entry<0>(w, true);
  acc += entry<1>(x, is_signed) * entry<1>(w, true);
  acc += entry<2>(x, is_signed) * entry<2>(w, true);
  return acc + entry<3>(x, is_signed) * entry<3>(w, true);
}

#elif !ORT_TCONV_WIDE && defined(__AVX512VNNI__) && ORT_TCONV_VECTOR_BYTES == 64

ORT_TCONV_INLINE Ints dot(Ints acc, Ints x, Ints w) {
  return (Ints)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)x, (__m512i)w);
}

#elif !ORT_TCONV_WIDE && defined(__AVXVNNI__)

ORT_TCONV_INLINE Ints dot(Ints acc, Ints x, Ints w) {
  return (Ints)_mm256_dpbusd_avx_epi32((__m256i)acc, (__m256i)x, (__m256i)w);
}

#elif !ORT_TCONV_WIDE && defined(__ARM_FEATURE_DOTPROD)

ORT_TCONV_INLINE Ints dot(Ints acc, Ints x, Ints w) {
  return (Ints)vdotq_s32((int32x4_t)acc, (int8x16_t)x, (int8x16_t)w);
}

#elif !ORT_TCONV_WIDE

#error "the instruction set has no multiplication of bytes"

#elif defined(__AVX2__)  // two int16 a word: the sum of two such products fits into 32 bits

ORT_TCONV_INLINE Ints dot(Ints acc, Ints x, Ints w) { return acc + (Ints)_mm256_madd_epi16((__m256i)x, (__m256i)w); }

#elif defined(__SSE2__)

ORT_TCONV_INLINE Ints dot(Ints acc, Ints x, Ints w) { return acc + (Ints)_mm_madd_epi16((__m128i)x, (__m128i)w); }

#elif defined(__ARM_NEON)

ORT_TCONV_INLINE Ints dot(Ints acc, Ints x, Ints w) {
  const int16x8_t a = (int16x8_t)x, b = (int16x8_t)w;
  return acc + (Ints)vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b));
}

#else

ORT_TCONV_INLINE Ints dot(Ints acc, Ints x, Ints w) {
  return acc + entry<0>(x, true) * entry<0>(w, true) + entry<1>(x, true) * entry<1>(w, true);
}

#endif

// L words of weights, stored as signed bytes.
ORT_TCONV_INLINE Ints load_weights(const int8_t* w) {
  if constexpr (kForm != WordForm::kWide) {
    return loadu<Ints>(w);
  } else {
#if defined(__AVX2__) && ORT_TCONV_VECTOR_BYTES == 32
    return (Ints)_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w)));
#elif defined(__SSE2__) && ORT_TCONV_VECTOR_BYTES == 16
    const __m128i v = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(w));
    return (Ints)_mm_srai_epi16(_mm_unpacklo_epi8(v, v), 8);
#elif defined(__ARM_NEON)
    return (Ints)vmovl_s8(vld1_s8(w));
#else
    Ints v;
    for (int l = 0; l < L; ++l)
      v[l] = static_cast<int32_t>(static_cast<uint16_t>(w[2 * l]) | static_cast<uint32_t>(w[2 * l + 1]) << 16);
    return v;
#endif
  }
}

// ---- gemm: lanes are output channels ------------------------------------------------------------------------

// Weights of NV vectors of words in bytes or, `Wide`, in int16.
template <int P, int NV, bool Wide>
ORT_TCONV_INLINE void gemm_block(const QuantizedGemmArgs& a, int64_t i) {
  Ints acc[P][NV];
  for (int p = 0; p < P; ++p)
    for (int v = 0; v < NV; ++v)
      acc[p][v] = loadu<Ints>(a.start ? a.start + v * L : a.acc + a.acc_offset[i + p] + v * L);
  constexpr int kBytes = Wide ? 4 : G;  // of a word
  const int8_t* w = a.w;
  for (int64_t t = 0; t < a.ntaps; ++t) {
    const uint32_t* x[P];
    for (int p = 0; p < P; ++p) x[p] = a.x + a.x_offset[i + p] + a.taps[t];
#pragma GCC unroll 2
    for (int64_t q = 0; q < a.words; ++q, w += NV * L * kBytes) {
      Ints b[NV];
      for (int v = 0; v < NV; ++v) {
        if constexpr (Wide) b[v] = loadu<Ints>(w + v * L * kBytes);
        else b[v] = load_weights(w + v * L * kBytes);
      }
      for (int p = 0; p < P; ++p) {
        const Ints s = splat(x[p][q]);
        for (int v = 0; v < NV; ++v) acc[p][v] = dot(acc[p][v], s, b[v]);
      }
    }
  }
  for (int p = 0; p < P; ++p)
    for (int v = 0; v < NV; ++v) storeu(a.acc + a.acc_offset[i + p] + v * L, acc[p][v]);
}

template <int NV, bool Wide>
void gemm(const QuantizedGemmArgs& a) {
  constexpr int P = ORT_TCONV_PIXELS;
  // Full blocks, then what is left as one or two of nearly equal size.
  for (int64_t i = 0, rest = a.count; rest > 0;) {
    const int64_t n = rest <= P ? rest : rest < 2 * P ? (rest + 1) / 2 : P;
    switch (n) {
      case 1: gemm_block<1, NV, Wide>(a, i); break;
      case 2: gemm_block<2, NV, Wide>(a, i); break;
      case 3: gemm_block<3, NV, Wide>(a, i); break;
      case 4: gemm_block<4, NV, Wide>(a, i); break;
#if ORT_TCONV_PIXELS > 4
      case 5: gemm_block<5, NV, Wide>(a, i); break;
      default: gemm_block<6, NV, Wide>(a, i); break;
#endif
    }
    i += n;
    rest -= n;
  }
}

void settle(int32_t* v, int64_t n, int nv, int shift, const int32_t* start) {
  for (int64_t i = 0; i < n; ++i)
    for (int k = 0; k < nv; ++k, v += L) storeu(v, (loadu<Ints>(v) >> shift) + loadu<Ints>(start + k * L));
}

// ---- rows: lanes are positions along a row --------------------------------------------------------------------

template <int NB, int NP>
ORT_TCONV_INLINE void rows_chunk(const QuantizedRowsArgs& a, int64_t i) {
  Ints acc[NB][NP];
  for (int n = 0; n < NB; ++n)
    for (int p = 0; p < NP; ++p) acc[n][p] = splat(static_cast<uint32_t>(a.start[n]));
  const uint32_t* w = a.w;
  for (int64_t t = 0; t < a.ntaps; ++t) {
    const uint32_t* x = a.x + a.taps[t] + i;
    for (int64_t q = 0; q < a.words; ++q, x += a.word_stride, w += NB) {
      Ints v[NP];
      for (int p = 0; p < NP; ++p) v[p] = loadu<Ints>(x + p * L);
      for (int n = 0; n < NB; ++n) {
        const Ints s = splat(w[n]);
        for (int p = 0; p < NP; ++p) acc[n][p] = dot(acc[n][p], v[p], s);
      }
    }
  }
  for (int n = 0; n < NB; ++n)
    for (int p = 0; p < NP; ++p) storeu(a.out[n] + i + p * L, acc[n][p]);
}

template <int NB>
void rows(const QuantizedRowsArgs& a) {
  constexpr int NP = NB == 1 ? 6 : NB == 2 ? 4 : NB == 3 ? 3 : 2;
  int64_t i = 0;
  for (; i + NP * L <= a.count; i += NP * L) rows_chunk<NB, NP>(a, i);
  if constexpr (NP > 2)
    for (; i + 2 * L <= a.count; i += 2 * L) rows_chunk<NB, 2>(a, i);
  for (; i < a.count; i += L) rows_chunk<NB, 1>(a, i);
}

// ---- loading --------------------------------------------------------------------------------------------------

template <class V, int... I>
ORT_TCONV_INLINE void unpack(V a, V b, V& lo, V& hi, std::integer_sequence<int, I...>) {
  constexpr int N = sizeof...(I);
  lo = __builtin_shufflevector(a, b, ((I & 1 ? N : 0) + I / 2)...);
  hi = __builtin_shufflevector(a, b, ((I & 1 ? N : 0) + N / 2 + I / 2)...);
}

// Transposes an N x N block held in N vectors: log2(N) perfect shuffles of the whole.
template <int N, class V, int Rounds = N>
ORT_TCONV_INLINE void transpose_block(V* r) {
  if constexpr (Rounds > 1) {
    V s[N];
    for (int i = 0; i < N / 2; ++i)
      unpack(r[i], r[i + N / 2], s[2 * i], s[2 * i + 1], std::make_integer_sequence<int, N>());
    for (int i = 0; i < N; ++i) r[i] = s[i];
    transpose_block<N, V, Rounds / 2>(r);
  }
}

// The first n of 16 bytes, the others 0.
ORT_TCONV_INLINE Bytes16 load_bytes(const uint8_t* src, int n) {
  if (n == 16) return loadu<Bytes16>(src);
  // Put together in registers: a load of what was just stored in several pieces has to wait for them.
  typedef uint64_t Longs __attribute__((vector_size(16)));
  Longs v{};
  if (n >= 8) {
    v[0] = loadu<uint64_t>(src);
    if (n > 8) v[1] = loadu<uint64_t>(src + n - 8) >> (8 * (16 - n));
  } else if (n >= 4) {
    v[0] = loadu<uint32_t>(src) | static_cast<uint64_t>(loadu<uint32_t>(src + n - 4)) << (8 * (n - 4));
  } else {
    for (int i : {0, n / 2, n - 1}) v[0] |= static_cast<uint64_t>(src[i]) << (8 * i);
  }
  return (Bytes16)v;
}

// 16 channels of a position, from channel c on.
ORT_TCONV_INLINE void store_channels(Bytes16 v, uint32_t* position, int64_t c) {
  if constexpr (kForm != WordForm::kWide) {
    storeu(reinterpret_cast<uint8_t*>(position) + c, v);
  } else {
    Bytes16 lo, hi;
    unpack(v, Bytes16{}, lo, hi, std::make_integer_sequence<int, 16>());
    storeu(position + c / 2, lo);
    storeu(position + c / 2 + 4, hi);
  }
}

void load_channels_last(const uint8_t* src, int64_t src_stride, int64_t n, int64_t channels, uint8_t flip,
                        uint32_t* dst, int64_t dst_stride) {
  const Bytes16 mask = Bytes16{} + flip;
  for (int64_t c = 0; c < channels; c += 16) {
    const int nc = channels - c < 16 ? static_cast<int>(channels - c) : 16;
    for (int64_t next = 0; next < n; next += 16) {
      const int ni = n < 16 ? static_cast<int>(n) : 16;
      const int64_t i = n - next < ni ? n - ni : next;  // the last block ends with the run
      Bytes16 r[16];
      for (int k = 0; k < 16; ++k) r[k] = k < nc ? load_bytes(src + (c + k) * src_stride + i, ni) ^ mask : Bytes16{};
      // The processor cannot guess where the next channels lie.
      for (int64_t k = c + 16; k < c + 32 && k < channels; ++k) __builtin_prefetch(src + k * src_stride + i + ni - 1);
      transpose_block<16>(r);
      for (int k = 0; k < 16; ++k)
        if (k < ni) store_channels(r[k], dst + (i + k) * dst_stride, c);
    }
  }
}

template <int N>
ORT_TCONV_INLINE void load_words(const uint8_t* src, int64_t src_stride, int64_t n, uint8_t flip, uint32_t* dst) {
  constexpr int bits = 32 / G;
  const uint8_t* s[N];
  for (int k = 0; k < N; ++k) s[k] = src + k * src_stride;
  for (int64_t i = 0; i < n; ++i) {
    uint32_t word = 0;
    for (int k = 0; k < N; ++k) word |= static_cast<uint32_t>(s[k][i] ^ flip) << (bits * k);
    dst[i] = word;
  }
}

void load_rows(const uint8_t* src, int64_t src_stride, int64_t n, int64_t channels, uint8_t flip, uint32_t* dst,
               int64_t dst_stride) {
  for (; channels > 0; channels -= G, src += G * src_stride, dst += dst_stride) {
    switch (channels) {
      case 1: load_words<1>(src, src_stride, n, flip, dst); break;
      case 2: load_words<2>(src, src_stride, n, flip, dst); break;
      case 3: load_words < G<3 ? G : 3>(src, src_stride, n, flip, dst); break;
      default: load_words<G>(src, src_stride, n, flip, dst); break;
    }
  }
}

int32_t sum(const uint32_t* src, int64_t words, int64_t stride) {
  uint32_t total = 0;
  for (int64_t q = 0; q < words; ++q) {
    const uint32_t v = src[q * stride];
    for (int k = 0; k < G; ++k) {
      if (kForm == WordForm::kWide) total += v >> (16 * k) & 0xFFFF;
      else if (kForm == WordForm::kUnsignedBytes) total += v >> (8 * k) & 0xFF;
      else total += static_cast<uint32_t>(static_cast<int32_t>(static_cast<int8_t>(v >> (8 * k) & 0xFF)));
    }
  }
  return static_cast<int32_t>(total);
}

// ---- epilogue -------------------------------------------------------------------------------------------------

ORT_TCONV_INLINE Floats scaled(Ints acc, Floats multiplier, Floats offset, const QuantizedEpilogue& e) {
  const Floats low = Floats{} + e.low, high = Floats{} + e.high;
  Floats v = __builtin_convertvector(acc, Floats) * multiplier + offset;
  v = v < low ? low : v;
  return v > high ? high : v;
}

// In the low byte of each lane.
ORT_TCONV_INLINE Ints quantized(Ints acc, Floats multiplier, Floats offset, const QuantizedEpilogue& e) {
  // Next to 1.5 * 2^23 floats are the integers, and additions round to the nearest, ties to even.
  const Floats shifted = scaled(acc, multiplier, offset, e) + 12582912.f;
  return (Ints)shifted + (e.zero - 0x4B400000);
}

// The low bytes of 16 lanes.
ORT_TCONV_INLINE Bytes16 low_bytes(const Ints* v) {
#if defined(__AVX512F__) && ORT_TCONV_VECTOR_BYTES == 64
  return (Bytes16)_mm512_cvtepi32_epi8((__m512i)v[0]);
#elif defined(__AVX2__) && ORT_TCONV_VECTOR_BYTES == 32
  const __m256i pairs = _mm256_packs_epi32((__m256i)(v[0] & 255), (__m256i)(v[1] & 255));
  const __m256i ordered = _mm256_permute4x64_epi64(pairs, 0xD8);
  return (Bytes16)_mm_packus_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
#elif defined(__SSE2__) && ORT_TCONV_VECTOR_BYTES == 16
  return (Bytes16)_mm_packus_epi16(_mm_packs_epi32((__m128i)(v[0] & 255), (__m128i)(v[1] & 255)),
                                   _mm_packs_epi32((__m128i)(v[2] & 255), (__m128i)(v[3] & 255)));
#elif defined(__ARM_NEON)
  const auto half = [](Ints a, Ints b) {
    return vmovn_s16(vcombine_s16(vmovn_s32((int32x4_t)a), vmovn_s32((int32x4_t)b)));
  };
  return (Bytes16)vcombine_s8(half(v[0], v[1]), half(v[2], v[3]));
#else
  Bytes16 r;
  for (int k = 0; k < 16; ++k) r[k] = static_cast<uint8_t>(v[k / L][k % L]);
  return r;
#endif
}

void store_bytes(const int32_t* acc, const int64_t* offset, int64_t n, int nv, const float* multiplier,
                 const float* bias, const QuantizedEpilogue& e, uint8_t* dst, int64_t dst_stride) {
  constexpr int V = 16 / L;  // vectors of 16 channels
  for (int v0 = 0; v0 < nv; v0 += V) {
    const int vectors = nv - v0 < V ? nv - v0 : V;
    Floats m[V], b[V];
    for (int v = 0; v < vectors; ++v) {
      m[v] = loadu<Floats>(multiplier + (v0 + v) * L);
      b[v] = loadu<Floats>(bias + (v0 + v) * L);
    }
    for (int64_t i = 0; i < n; i += 16) {
      Bytes16 r[16];
      for (int k = 0; k < 16; ++k) {
        const int32_t* a = acc + offset[i + k < n ? i + k : n - 1] + v0 * L;
        Ints q[V] = {};
        for (int v = 0; v < vectors; ++v) q[v] = quantized(loadu<Ints>(a + v * L), m[v], b[v], e);
        r[k] = low_bytes(q);
      }
      transpose_block<16>(r);
      for (int k = 0; k < vectors * L; ++k) storeu(dst + (v0 * L + k) * dst_stride + i, r[k]);
    }
  }
}

void store_floats(const int32_t* acc, const int64_t* offset, int64_t n, int nv, const float* multiplier,
                  const float* bias, const QuantizedEpilogue& e, float* dst, int64_t dst_stride) {
  for (int v = 0; v < nv; ++v) {
    const Floats m = loadu<Floats>(multiplier + v * L), b = loadu<Floats>(bias + v * L);
    for (int64_t i = 0; i < n; i += 4) {
      Floats y[4];
      for (int k = 0; k < 4; ++k) y[k] = scaled(loadu<Ints>(acc + offset[i + k < n ? i + k : n - 1] + v * L), m, b, e);
      for (int l = 0; l < L; l += 4) {
        Floats4 r[4];
        for (int k = 0; k < 4; ++k) r[k] = loadu<Floats4>(reinterpret_cast<const float*>(&y[k]) + l);
        transpose_block<4>(r);
        for (int k = 0; k < 4; ++k) storeu(dst + (v * L + l + k) * dst_stride + i, r[k]);
      }
    }
  }
}

constexpr int64_t kPiece = 256;  // positions finished at a time

template <class E>
ORT_TCONV_INLINE void finish_piece(const int32_t* acc, int64_t n, Floats m, Floats b, const QuantizedEpilogue& e,
                                   E* dst) {
  if constexpr (sizeof(E) == 1) {
    for (int64_t i = 0; i < n; i += 16) {
      Ints q[16 / L];
      for (int v = 0; v < 16 / L; ++v) q[v] = quantized(loadu<Ints>(acc + i + v * L), m, b, e);
      storeu(dst + i, low_bytes(q));
    }
  } else {
    for (int64_t i = 0; i < n; i += L) storeu(dst + i, scaled(loadu<Ints>(acc + i), m, b, e));
  }
}

template <class E, int Ways>
ORT_TCONV_INLINE void interleave(const E (*src)[kPiece], int64_t n, E* __restrict dst) {
  for (int64_t i = 0; i < n; ++i)
    for (int k = 0; k < Ways; ++k) dst[i * Ways + k] = src[k][i];
}

template <class E>
void finish(const int32_t* const* acc, int ways, int64_t n, float multiplier, float bias, const QuantizedEpilogue& e,
            E* dst) {
  const Floats m = Floats{} + multiplier, b = Floats{} + bias;
  constexpr int kTogether = 4;
  E part[kTogether][kPiece];
  for (int64_t at = 0; at < n; at += kPiece) {
    const int64_t count = n - at < kPiece ? n - at : kPiece;
    E* out = dst + at * ways;
    if (ways <= kTogether) {
      for (int k = 0; k < ways; ++k) finish_piece(acc[k] + at, count, m, b, e, part[k]);
      switch (ways) {
        case 1: std::memcpy(out, part[0], static_cast<size_t>(count) * sizeof(E)); break;
        case 2: interleave<E, 2>(part, count, out); break;
        case 3: interleave<E, 3>(part, count, out); break;
        default: interleave<E, 4>(part, count, out); break;
      }
    } else {
      for (int k = 0; k < ways; ++k) {
        finish_piece(acc[k] + at, count, m, b, e, part[0]);
        for (int64_t i = 0; i < count; ++i) out[i * ways + k] = part[0][i];
      }
    }
  }
}

// ---- tables ---------------------------------------------------------------------------------------------------

template <int NV, bool Wide = false>
constexpr void (*gemm_entry())(const QuantizedGemmArgs&) {
  if constexpr (NV <= ORT_TCONV_MAX_VECTORS && (!Wide || kForm == WordForm::kWide)) return gemm<NV, Wide>;
  else return nullptr;
}

template <class T, class... Maps>
constexpr PlaneTable<T> plane_table() {
  typedef T Vector __attribute__((vector_size(ORT_TCONV_VECTOR_BYTES)));
  PlaneTable<T> table{};
  if constexpr (kForm == WordForm::kWide) add_planes<Vector, Maps...>(&table);
  return table;
}

}  // namespace

extern const QuantizedKernels ORT_TCONV_SET;
const QuantizedKernels ORT_TCONV_SET = {
    ORT_TCONV_NAME,
    ORT_TCONV_BASE,
    kForm,
    L,
    ORT_TCONV_MAX_VECTORS,
    {nullptr, gemm_entry<1>(), gemm_entry<2>(), gemm_entry<3>(), gemm_entry<4>()},
    {nullptr, rows<1>, rows<2>, rows<3>, rows<4>},
    {nullptr, gemm_entry<1, true>(), gemm_entry<2, true>(), gemm_entry<3, true>(), gemm_entry<4, true>()},
    plane_table<int16_t, Copy, Input4, Input3>(),
    plane_table<int32_t, Copy, Output32, Output23, Output22>(),
    kForm == WordForm::kWide ? settle : nullptr,
    load_channels_last,
    load_rows,
    sum,
    store_bytes,
    store_floats,
    finish<uint8_t>,
    finish<float>};

}  // namespace ort_tconv
