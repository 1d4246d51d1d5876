#include "ort/executor.h"

#include <new>

namespace ort_tconv {

SessionExecutor::SessionExecutor(const OrtApi& api, OrtKernelContext* context)
    : api_(api), context_(context), allocator_(nullptr, api.ReleaseAllocator) {
  OrtMemoryInfo* info = nullptr;
  check(api_, api_.CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &info));
  const Owned<OrtMemoryInfo> owned(info, api_.ReleaseMemoryInfo);
  OrtAllocator* allocator = nullptr;
  check(api_, api_.KernelContext_GetAllocator(context_, info, &allocator));
  allocator_.reset(allocator);
}

void SessionExecutor::parallel(int64_t n, const std::function<void(int64_t)>& fn) {
  if (n == 1) return fn(0);
  const auto call = [](void* f, size_t i) {
    (*static_cast<const std::function<void(int64_t)>*>(f))(static_cast<int64_t>(i));
  };
  check(api_, api_.KernelContext_ParallelFor(context_, call, static_cast<size_t>(n), 0,
                                             const_cast<std::function<void(int64_t)>*>(&fn)));
}

void* SessionExecutor::allocate(size_t bytes) {
  void* p = nullptr;
  try {
    p = allocator_->Alloc(allocator_.get(), bytes);
  } catch (...) {  // ORT's allocators report by throwing, of their own types
  }
  if (!p) throw std::bad_alloc();
  return p;
}

void* SessionExecutor::output(size_t index, const Dims& shape) {
  OrtValue* value = nullptr;
  check(api_, api_.KernelContext_GetOutput(context_, index, shape.data(), shape.size(), &value));
  return const_cast<void*>(data_of(api_, value));
}

void SessionExecutor::release(void* p) { allocator_->Free(allocator_.get(), p); }

}  // namespace ort_tconv
