#include "ort/cpu_node.h"

#include <utility>

#include "core/status.h"
#include "cpu/arch.h"

namespace ort_tconv {

CpuNode::CpuNode(Attributes attributes, DType dtype)
    : dtype_(dtype), attributes_(std::move(attributes)), kernels_(kernel_set()), machine_(machine(kernels_)) {
  check_attributes(attributes_);
}

bool CpuNode::prepare_ahead(const Dims& declared, const Dims& w_shape, const void* w) {
  return prepare_likely(declared, w_shape, [&](const InputShapes& shapes) {
    const auto prepared = prepare(shapes, true);
    if (element_count(prepared->problem().y_shape(), "output size") == 0) return true;
    return !prepared->reads_original(*constant_weights(*prepared, w));
  });
}

std::shared_ptr<const Prepared> CpuNode::prepare(const InputShapes& shapes, bool constant_w) {
  return cache_.prepared(shapes, [&] {
    Problem problem = make_problem(attributes_, shapes);
    problem.constant_weights = constant_w;
    return Prepared(problem, dtype_, kernels_, machine_, attributes_.algorithm);
  });
}

std::shared_ptr<const PackedWeights> CpuNode::constant_weights(const Prepared& prepared, const void* w) {
  return cache_.weights(prepared, w, storage_bytes(dtype_));
}

void CpuNode::run(SessionExecutor& executor, const InputShapes& shapes, Tensors tensors, bool constant_w) {
  const auto prepared = prepare(shapes, constant_w);
  const Dims y_shape = prepared->problem().y_shape();
  tensors.y = executor.output(0, y_shape);
  if (element_count(y_shape, "output size") == 0) return;
  if (constant_w) prepared->run(*constant_weights(*prepared, tensors.w), tensors, executor);
  else prepared->run(tensors, executor);
}

}  // namespace ort_tconv
