// A quantised transposed convolution that ONNX Runtime runs on the CPU: the part that the custom operator and the
// execution provider share, as CpuNode (cpu_node.h) is of the one in floats.
#pragma once

#include <array>
#include <memory>

#include "core/quantized.h"
#include "cpu/quantized.h"
#include "ort/executor.h"
#include "ort/prepared_cache.h"
#include "ort/support.h"

namespace ort_tconv {

ONNXTensorElementDataType element_type(QuantizedType type);

class QuantizedNode {
 public:
  // Inputs in the operator's order, which is that of ONNX's QLinearConv; B alone may be left out.
  enum Input { kX, kXScale, kXZero, kW, kWScale, kWZero, kYScale, kYZero, kB, kInputs };
  static const char* name(Input input);

  // A tensor of a call.
  struct Argument {
    Dims shape;
    const void* data = nullptr;
    bool present = false;
  };
  using Arguments = std::array<Argument, kInputs>;

  // B is float32 or int32.  Throws Error.
  QuantizedNode(Attributes attributes, QuantizedTypes types, bool float_bias);

  // As CpuNode::prepare_ahead.
  bool prepare_ahead(const Dims& declared, const Dims& w_shape, const void* w);

  // Runs, and makes output 0.  If the weights are constant, those of `arguments` are read only to pack them in an
  // order that they are not packed in yet, and may be null where that cannot be.  Throws Error or std::bad_alloc.
  void run(SessionExecutor& executor, const Arguments& arguments, bool constant_w);

 private:
  std::shared_ptr<const QuantizedPrepared> prepare(const InputShapes& shapes, bool constant_w);

  Attributes attributes_;
  QuantizedTypes types_;
  bool float_bias_;
  const QuantizedKernels& kernels_;
  Machine machine_;
  PreparedCache<QuantizedPrepared> cache_;
};

}  // namespace ort_tconv
