// CUDA backend of intrinsics.h.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define TCONV_DEVICE __device__ __forceinline__
#define TCONV_UNROLL _Pragma("unroll")
#define TCONV_UNROLL_NOT _Pragma("unroll 1")
#define TCONV_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)

namespace ort_tconv::cuda {

extern __shared__ __align__(16) unsigned char tconv_shared[];

TCONV_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
TCONV_DEVICE int block_x() { return static_cast<int>(blockIdx.x); }
TCONV_DEVICE int block_y() { return static_cast<int>(blockIdx.y); }
TCONV_DEVICE int block_z() { return static_cast<int>(blockIdx.z); }
TCONV_DEVICE int grid_x() { return static_cast<int>(gridDim.x); }
TCONV_DEVICE int grid_y() { return static_cast<int>(gridDim.y); }
TCONV_DEVICE void sync_threads() { __syncthreads(); }
// Lanes that took different branches come together again: what mma.sync demands.
TCONV_DEVICE void join_warp() { __syncwarp(); }

template <class V> TCONV_DEVICE V load_shared(int offset) { return *reinterpret_cast<const V*>(tconv_shared + offset); }
template <class V> TCONV_DEVICE void store_shared(int offset, V v) { *reinterpret_cast<V*>(tconv_shared + offset) = v; }

// Inputs are read through the read-only path: no kernel writes what it reads.
template <class V> TCONV_DEVICE V load(const V* p) { return *p; }
template <> TCONV_DEVICE float load(const float* p) { return __ldg(p); }
template <> TCONV_DEVICE double load(const double* p) { return __ldg(p); }
template <> TCONV_DEVICE Half load(const Half* p) { return {__ldg(reinterpret_cast<const unsigned short*>(p))}; }
template <> TCONV_DEVICE BFloat16 load(const BFloat16* p) {
  return {__ldg(reinterpret_cast<const unsigned short*>(p))};
}
template <> TCONV_DEVICE Vec16 load(const Vec16* p) {
  const uint4 v = __ldg(reinterpret_cast<const uint4*>(p));
  return {{v.x, v.y, v.z, v.w}};
}
template <class V> TCONV_DEVICE void store(V* p, V v) { *p = v; }
template <> TCONV_DEVICE void store(Vec16* p, Vec16 v) {
  *reinterpret_cast<uint4*>(p) = make_uint4(v.word[0], v.word[1], v.word[2], v.word[3]);
}

// 16 bytes from global to shared memory, there once a later cp_async_wait says so.
TCONV_DEVICE void cp_async16(int offset, const void* source) {
#if __CUDA_ARCH__ >= 800
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(tconv_shared + offset));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(to), "l"(source) : "memory");
#else
  store_shared(offset, load(static_cast<const Vec16*>(source)));
#endif
}
TCONV_DEVICE void cp_async_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}
// Waits until at most `pending` of this thread's committed groups are under way.
template <int pending> TCONV_DEVICE void cp_async_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;\n" ::"n"(pending) : "memory");
#endif
}

TCONV_DEVICE float to_float(float v) { return v; }
TCONV_DEVICE float to_float(Half v) { return __half2float(__ushort_as_half(v.bits)); }
TCONV_DEVICE float to_float(BFloat16 v) { return __bfloat162float(__ushort_as_bfloat16(v.bits)); }
TCONV_DEVICE double to_float(double v) { return v; }
template <class T> TCONV_DEVICE T from_float(float v) { return v; }
template <> TCONV_DEVICE Half from_float<Half>(float v) { return {__half_as_ushort(__float2half_rn(v))}; }
template <> TCONV_DEVICE BFloat16 from_float<BFloat16>(float v) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(v))};
}
template <class T> TCONV_DEVICE T from_float(double v) { return v; }

// To the nearest TensorFloat-32, ties away from zero; before 8.0 there are no such tensor cores.
TCONV_DEVICE float round_to_tf32(float v) {
#if __CUDA_ARCH__ >= 800
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(bits) : "f"(v));
  return __uint_as_float(bits);
#else
  return v;
#endif
}

// c += a * b for the 16x8 tile of a warp; PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating
// point type" and "... for mma.m16n8k8".
TCONV_DEVICE void mma_f16(float (&c)[4], const uint32_t* a, uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(b0));
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}
TCONV_DEVICE void mma_bf16(float (&c)[4], const uint32_t* a, uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  __trap();  // the host launches no such kernel there
#endif
}
TCONV_DEVICE void mma_tf32(float (&c)[4], const uint32_t* a, uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  __trap();
#endif
}

struct Grid { int64_t x, y, z; };
using Stream = void*;

// Launches a kernel of one parameter struct; null, or the text of the error.
template <class P>
const char* launch(void (*kernel)(P), Grid grid, int threads, int shared_bytes, Stream stream, const P& params) {
  cudaError_t error = cudaSuccess;
  if (shared_bytes > 48 * 1024)
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (error == cudaSuccess) {
    const dim3 blocks(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), static_cast<unsigned>(grid.z));
    void* arguments[] = {const_cast<P*>(&params)};
    error = cudaLaunchKernel(reinterpret_cast<const void*>(kernel), blocks, dim3(threads), arguments,
                             static_cast<size_t>(shared_bytes), static_cast<cudaStream_t>(stream));
  }
  if (error == cudaSuccess) return nullptr;
  cudaGetLastError();  // leaves no trace for the next caller, unless the error is one that stays
  return cudaGetErrorString(error);
}

}  // namespace ort_tconv::cuda
