// A transposed convolution that ONNX Runtime runs on the CPU: the part that the custom operator and the
// execution provider share.  It plans for the shapes it meets, keeps packed weights, and runs on the session's
// threads with the session's memory.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "core/plan.h"
#include "cpu/run.h"
#include "ort/support.h"

namespace ort_tconv {

// One call's view of a session: its thread pool, its CPU allocator, the outputs of the node.
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

class CpuNode {
 public:
  // Throws Error.
  CpuNode(Attributes attributes, DType dtype);

  // For constant weights: plans and packs when the session is created, for the shape that the model declares
  // for X (-1 where it leaves a size open, empty if not even the rank is known), or a likely one.  Returns
  // whether all that runs on that shape will read is packed.  Throws Error or std::bad_alloc.
  bool prepare_ahead(const Dims& declared, const Dims& w_shape, const void* w);

  // Runs on inputs of these shapes and makes output 0.  If the weights are constant, `tensors.w` is read only
  // to pack them in an order that they are not packed in yet, and may be null where that cannot be.
  // Throws Error or std::bad_alloc.
  void run(SessionExecutor& executor, const InputShapes& shapes, Tensors tensors, bool constant_w);

 private:
  std::shared_ptr<const Prepared> prepare(const InputShapes& shapes);
  std::shared_ptr<const PackedWeights> constant_weights(const Prepared& prepared, const void* w);

  DType dtype_;
  Attributes attributes_;
  const KernelSet& kernels_;
  Machine machine_;

  std::mutex mutex_;  // guards the two caches; their entries are immutable
  struct Entry {
    InputShapes shapes;
    Prepared prepared;
  };
  std::vector<std::shared_ptr<const Entry>> prepared_;  // most recently used last
  std::vector<std::shared_ptr<const PackedWeights>> packed_;
};

}  // namespace ort_tconv
