// One call's view of a session, as the engines need it.
#pragma once

#include <functional>

#include "cpu/run.h"
#include "ort/support.h"

namespace ort_tconv {

// The session's thread pool, its CPU allocator, and the outputs of the node.
class SessionExecutor final : public Executor {
 public:
  // Throws Error.
  SessionExecutor(const OrtApi& api, OrtKernelContext* context);
  void parallel(int64_t n, const std::function<void(int64_t)>& fn) override;
  void* allocate(size_t bytes) override;
  void release(void* p) override;
  // Makes an output of this shape; throws Error.
  void* output(size_t index, const Dims& shape);

 private:
  const OrtApi& api_;
  OrtKernelContext* context_;
  Owned<OrtAllocator> allocator_;
};

}  // namespace ort_tconv
