// A transposed convolution that ONNX Runtime runs on the CPU: the part that the custom operator and the
// execution provider share.  It plans for the shapes it meets, keeps packed weights, and runs on the session's
// threads with the session's memory.
#pragma once

#include <memory>

#include "core/plan.h"
#include "cpu/run.h"
#include "ort/executor.h"
#include "ort/prepared_cache.h"
#include "ort/support.h"

namespace ort_tconv {

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
  std::shared_ptr<const Prepared> prepare(const InputShapes& shapes, bool constant_w);
  std::shared_ptr<const PackedWeights> constant_weights(const Prepared& prepared, const void* w);

  DType dtype_;
  Attributes attributes_;
  const KernelSet& kernels_;
  Machine machine_;
  PreparedCache<Prepared> cache_;
};

}  // namespace ort_tconv
