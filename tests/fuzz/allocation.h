// operator new and aligned_alloc of a program, for one of its files to include.
//
// They throw, or return null, where there is no memory; the address sanitizer's operator new would end the
// process (a tensor larger than its max_allocation_size_mb).
//
// And they fail on purpose: the n-th allocation that the program's own code asks for.  Those of shared
// libraries (ONNX Runtime, the C++ library) are always served.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace ort_tconv::fuzz {

constexpr int64_t kNever = -1;
inline std::atomic<int64_t> served_before_failure{kNever};

// From here on the n-th allocation fails, counted from 0; those after it are served.
inline void fail_allocation(int64_t n) { served_before_failure = n; }

// Back to normal; whether an allocation failed.
inline bool allocation_failed() { return served_before_failure.exchange(kNever) == kNever; }

// Whether the allocation that code at `caller` asks for is the one to fail.
inline bool fails(const void* caller) {
  extern const char code_begins[] __asm__("__executable_start"), code_ends[] __asm__("etext");  // the linker's
  if (caller < code_begins || caller >= code_ends) return false;
  int64_t n = served_before_failure;
  while (n != kNever && !served_before_failure.compare_exchange_weak(n, n - 1)) {
  }
  return n == 0;  // which leaves kNever
}

inline void* aligned(size_t bytes, size_t alignment) {
  void* p = nullptr;
  return posix_memalign(&p, alignment < sizeof(void*) ? sizeof(void*) : alignment, bytes) ? nullptr : p;
}

inline void* allocated_or_null(const void* caller, size_t bytes, size_t alignment = 16) {
  return fails(caller) ? nullptr : aligned(bytes, alignment);
}

inline void* allocated(const void* caller, size_t bytes, size_t alignment = 16) {
  if (void* p = allocated_or_null(caller, bytes, alignment)) return p;
  throw std::bad_alloc();
}

}  // namespace ort_tconv::fuzz

// Not inlined: the address to return to tells who asks.
#define REPLACEMENT __attribute__((noinline))
#define CALLER __builtin_return_address(0)
using ort_tconv::fuzz::allocated, ort_tconv::fuzz::allocated_or_null;
using std::align_val_t, std::nothrow_t, std::size_t;

REPLACEMENT void* operator new(size_t n) { return allocated(CALLER, n); }
REPLACEMENT void* operator new[](size_t n) { return allocated(CALLER, n); }
REPLACEMENT void* operator new(size_t n, align_val_t a) { return allocated(CALLER, n, static_cast<size_t>(a)); }
REPLACEMENT void* operator new[](size_t n, align_val_t a) { return allocated(CALLER, n, static_cast<size_t>(a)); }
REPLACEMENT void* operator new(size_t n, const nothrow_t&) noexcept { return allocated_or_null(CALLER, n); }
REPLACEMENT void* operator new[](size_t n, const nothrow_t&) noexcept { return allocated_or_null(CALLER, n); }
REPLACEMENT void* operator new(size_t n, align_val_t a, const nothrow_t&) noexcept {
  return allocated_or_null(CALLER, n, static_cast<size_t>(a));
}
REPLACEMENT void* operator new[](size_t n, align_val_t a, const nothrow_t&) noexcept {
  return allocated_or_null(CALLER, n, static_cast<size_t>(a));
}
REPLACEMENT void operator delete(void* p) noexcept { std::free(p); }
REPLACEMENT void operator delete[](void* p) noexcept { std::free(p); }
REPLACEMENT void operator delete(void* p, size_t) noexcept { std::free(p); }
REPLACEMENT void operator delete[](void* p, size_t) noexcept { std::free(p); }
REPLACEMENT void operator delete(void* p, align_val_t) noexcept { std::free(p); }
REPLACEMENT void operator delete[](void* p, align_val_t) noexcept { std::free(p); }
REPLACEMENT void operator delete(void* p, size_t, align_val_t) noexcept { std::free(p); }
REPLACEMENT void operator delete[](void* p, size_t, align_val_t) noexcept { std::free(p); }
extern "C" REPLACEMENT void* aligned_alloc(size_t alignment, size_t n) {
  return allocated_or_null(CALLER, n, alignment);
}
#undef REPLACEMENT
#undef CALLER
