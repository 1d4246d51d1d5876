// Host backend of cuda/intrinsics.h: blocks in a loop, threads as fibers.  It is strict where a GPU is
// lenient or silent: reads of memory never written, accesses out of bounds or misaligned, shared memory
// passed between threads without a barrier, asynchronous copies used before they were awaited, and
// outputs written twice are errors.
#pragma once

#include <cmath>
#include <cstring>
#include <functional>
#include <string>

#define TCONV_DEVICE inline
#define TCONV_UNROLL
#define TCONV_UNROLL_NOT
#define TCONV_KERNEL(threads, blocks) void

namespace ort_tconv::cuda {

struct Grid { int64_t x, y, z; };
using Stream = void*;

namespace emulation {

enum class Access { kRead, kWriteOnce };

// A buffer of global memory; kernels may touch nothing else.
void add_buffer(const void* data, int64_t bytes, Access access, const char* name);
void clear_buffers();
// Elements of the buffer that no kernel wrote.
int64_t unwritten_bytes(const void* data);
// What the launches since the last call did: instructions of interest, for tests of the emulator.
struct Counts { int64_t barriers, products, async_copies; };
Counts take_counts();

// Of the running thread.
int thread_index();
int64_t block_index(int axis), grid_size(int axis);
void sync_threads();

// These throw what run_grid reports.
void check_global(const void* p, int64_t bytes, bool write);
void read_shared(int offset, int bytes, void* out);
void write_shared(int offset, int bytes, const void* in);
void async_copy(int offset, const void* source);
void async_commit();
void async_wait(int pending);

enum class Product { kF16, kBF16, kTF32 };
void multiply(Product kind, float* c, const uint32_t* a, uint32_t b0, uint32_t b1);

// Runs all blocks; null, or the first error.
const char* run_grid(Grid grid, int threads, int shared_bytes, const std::function<void()>& body);

float half_to_float(uint16_t bits);
uint16_t float_to_half(float v);

}  // namespace emulation

inline int thread_index() { return emulation::thread_index(); }
inline int block_x() { return static_cast<int>(emulation::block_index(0)); }
inline int block_y() { return static_cast<int>(emulation::block_index(1)); }
inline int block_z() { return static_cast<int>(emulation::block_index(2)); }
inline int grid_x() { return static_cast<int>(emulation::grid_size(0)); }
inline int grid_y() { return static_cast<int>(emulation::grid_size(1)); }
inline void sync_threads() { emulation::sync_threads(); }
inline void join_warp() {}  // a product waits for all lanes anyway

template <class V> V load_shared(int offset) {
  V v;
  emulation::read_shared(offset, sizeof(V), &v);
  return v;
}
template <class V> void store_shared(int offset, const V& v) { emulation::write_shared(offset, sizeof(V), &v); }

template <class V> V load(const V* p) {
  emulation::check_global(p, sizeof(V), false);
  return *p;
}
template <class V> void store(V* p, const V& v) {
  emulation::check_global(p, sizeof(V), true);
  *p = v;
}

inline void cp_async16(int offset, const void* source) { emulation::async_copy(offset, source); }
inline void cp_async_commit() { emulation::async_commit(); }
template <int pending> void cp_async_wait() { emulation::async_wait(pending); }

inline float to_float(float v) { return v; }
inline double to_float(double v) { return v; }
inline float to_float(Half v) { return emulation::half_to_float(v.bits); }
inline float to_float(BFloat16 v) {
  const uint32_t bits = static_cast<uint32_t>(v.bits) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}
template <class T, class A> T from_float(A v) { return static_cast<T>(v); }
template <> inline Half from_float<Half, float>(float v) { return {emulation::float_to_half(v)}; }
template <> inline BFloat16 from_float<BFloat16, float>(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  if (v != v) return {static_cast<uint16_t>(bits >> 16 | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline float round_to_tf32(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  if ((bits & 0x7f800000) != 0x7f800000) bits = (bits + 0x1000) & ~0x1fffu;
  std::memcpy(&v, &bits, 4);
  return v;
}

inline void mma_f16(float (&c)[4], const uint32_t* a, uint32_t b0, uint32_t b1) {
  emulation::multiply(emulation::Product::kF16, c, a, b0, b1);
}
inline void mma_bf16(float (&c)[4], const uint32_t* a, uint32_t b0, uint32_t b1) {
  emulation::multiply(emulation::Product::kBF16, c, a, b0, b1);
}
inline void mma_tf32(float (&c)[4], const uint32_t* a, uint32_t b0, uint32_t b1) {
  emulation::multiply(emulation::Product::kTF32, c, a, b0, b1);
}

template <class P>
const char* launch(void (*kernel)(P), Grid grid, int threads, int shared_bytes, Stream, const P& params) {
  return emulation::run_grid(grid, threads, shared_bytes, [&] { kernel(params); });
}

}  // namespace ort_tconv::cuda
