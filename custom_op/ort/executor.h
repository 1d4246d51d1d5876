// One call's view of a session, as the engines need it.
#pragma once

#include <functional>
#include <new>

#include "cpu/run.h"
#include "ort/support.h"

namespace ort_tconv {

// The session's thread pool and CPU allocator.
class SessionExecutor final : public Executor {
 public:
  SessionExecutor(const OrtApi& api, OrtKernelContext* context)
      : api_(api), context_(context), allocator_(nullptr, api.ReleaseAllocator) {
    OrtMemoryInfo* info = nullptr;
    check(api_, api_.CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &info));
    const Owned<OrtMemoryInfo> owned(info, api_.ReleaseMemoryInfo);
    OrtAllocator* allocator = nullptr;
    check(api_, api_.KernelContext_GetAllocator(context_, info, &allocator));
    allocator_.reset(allocator);
  }

  void parallel(int64_t n, const std::function<void(int64_t)>& fn) override {
    if (n == 1) return fn(0);
    const auto call = [](void* f, size_t i) {
      (*static_cast<const std::function<void(int64_t)>*>(f))(static_cast<int64_t>(i));
    };
    check(api_, api_.KernelContext_ParallelFor(context_, call, static_cast<size_t>(n), 0,
                                               const_cast<std::function<void(int64_t)>*>(&fn)));
  }
  void* allocate(size_t bytes) override {
    void* p = nullptr;
    try {
      p = allocator_->Alloc(allocator_.get(), bytes);
    } catch (...) {  // ORT's allocators report by throwing, of their own types
    }
    if (!p) throw std::bad_alloc();
    return p;
  }
  void release(void* p) override { allocator_->Free(allocator_.get(), p); }

 private:
  const OrtApi& api_;
  OrtKernelContext* context_;
  Owned<OrtAllocator> allocator_;
};

}  // namespace ort_tconv
