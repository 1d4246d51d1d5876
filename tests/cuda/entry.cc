#include "entry.h"

#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "core/status.h"
#include "cuda/launch.h"

#ifdef ORT_TCONV_EMULATE
#include "cuda/intrinsics.h"
#else
#include <cuda_runtime.h>

#include "cuda/device.h"
#endif

namespace ort_tconv::cuda {
namespace {

void check(const char* error) {
  if (error) throw Error(error);
}

Problem problem_of(const tconv_call& c) {
  const auto list = [&](const int64_t* v) { return Dims(v, v + c.rank); };
  Problem p;
  p.batch = c.batch, p.channels = c.channels, p.out_channels = c.out_channels, p.group = c.group;
  p.in = list(c.in), p.kernel = list(c.kernel), p.stride = list(c.stride), p.dilation = list(c.dilation);
  p.pad_begin = list(c.pad_begin), p.pad_end = list(c.pad_end), p.out = list(c.out);
  p.has_bias = c.b, p.has_residual = c.z;
  p.activation.kind = static_cast<ActivationKind>(c.activation);
  p.activation.a = static_cast<float>(c.a), p.activation.b = static_cast<float>(c.b_parameter);
  p.activation.slopes.assign(c.slopes, c.slopes + c.slope_count);
  return p;
}

#ifdef ORT_TCONV_EMULATE

// 16-byte aligned, filled with NaN.
struct Memory {
  std::unique_ptr<char, decltype(&std::free)> data;
  explicit Memory(int64_t bytes)
      : data(static_cast<char*>(std::aligned_alloc(16, (std::max<int64_t>(bytes, 1) + 15) / 16 * 16)), &std::free) {
    std::memset(data.get(), 0xff, bytes);
  }
};

void require_written(const void* data, const char* what) {
  const int64_t missing = emulation::unwritten_bytes(data);
  require(missing == 0, missing, " bytes of ", what, " were never written");
}

std::string run_call(const tconv_call& c) {
  using emulation::Access;
  const Problem p = problem_of(c);
  const Device device{static_cast<int>(c.capability), static_cast<int>(c.multiprocessors),
                      static_cast<int>(c.shared_bytes)};
  const LaunchPlan plan = make_launch_plan(p, static_cast<DType>(c.dtype), device,
                                           {c.allow_tf32 != 0, c.kernel_name, c.tile, static_cast<int>(c.splits)});
  const int64_t bytes = storage_bytes(plan.dtype);
  int64_t in = 1, taps = 1;
  for (int i = 0; i < p.rank(); ++i) in *= p.in[i], taps *= p.kernel[i];
  const int64_t w_bytes = p.channels * p.group_out() * taps * bytes;
  Memory packed(plan.packed_bytes), workspace(plan.workspace_bytes);

  emulation::clear_buffers();
  emulation::add_buffer(c.w, w_bytes, Access::kRead, "W");
  emulation::add_buffer(packed.data.get(), plan.packed_bytes, Access::kWriteOnce, "packed weights");
  check(pack(plan, c.w, packed.data.get(), nullptr));
  require_written(packed.data.get(), "packed weights");

  emulation::clear_buffers();
  if (plan.packed_bytes > 0)
    emulation::add_buffer(packed.data.get(), plan.packed_bytes, Access::kRead, "packed weights");
  else emulation::add_buffer(c.w, w_bytes, Access::kRead, "W");
  emulation::add_buffer(c.x, p.batch * p.channels * in * bytes, Access::kRead, "X");
  if (c.b) emulation::add_buffer(c.b, p.out_channels * bytes, Access::kRead, "B");
  if (c.z) emulation::add_buffer(c.z, plan.y_count * bytes, Access::kRead, "Z");
  if (c.slope_count) emulation::add_buffer(c.slopes, c.slope_count * 4, Access::kRead, "slopes");
  if (plan.workspace_bytes)
    emulation::add_buffer(workspace.data.get(), plan.workspace_bytes, Access::kWriteOnce, "workspace");
  emulation::add_buffer(c.y, plan.y_count * bytes, Access::kWriteOnce, "Y");
  Operands operands{c.x, plan.packed_bytes > 0 ? packed.data.get() : c.w, c.b, c.z, c.y, nullptr, workspace.data.get()};
  if (c.slope_count > 1) operands.slopes = c.slopes;
  emulation::take_counts();
  check(run(plan, p, operands, nullptr));
  require_written(c.y, "Y");
  // Only what rounds a split up to 16 bytes stays unwritten.
  if (plan.workspace_bytes)
    require(emulation::unwritten_bytes(workspace.data.get()) ==
                plan.workspace_bytes - plan.splits * plan.y_count * compute_bytes(plan.dtype),
            "the workspace was not written");
  const emulation::Counts counts = emulation::take_counts();
  return concat(plan.describe(), "; ", counts.products, " products, ", counts.barriers, " barriers, ",
                counts.async_copies, " copies");
}

#else

void check(cudaError_t error, const char* what) {
  require(error == cudaSuccess, what, ": ", cudaGetErrorString(error));
}

// A copy of host memory on the device, at the same offset from 16-byte alignment, between guards.
class DeviceCopy {
 public:
  // Filled with NaN if `from` is null.
  DeviceCopy(const void* from, const void* address, int64_t bytes)
      : offset_(kGuard + reinterpret_cast<uintptr_t>(address) % 16), bytes_(bytes) {
    check(cudaMalloc(&data_, offset_ + bytes + kGuard), "cudaMalloc");
    check(cudaMemset(data_, 0xff, offset_ + bytes + kGuard), "cudaMemset");
    if (from) check(cudaMemcpy(get(), from, bytes, cudaMemcpyDefault), "cudaMemcpy");
  }
  ~DeviceCopy() { cudaFree(data_); }
  DeviceCopy(const DeviceCopy&) = delete;
  char* get() const { return static_cast<char*>(data_) + offset_; }
  void read(void* to) const { check(cudaMemcpy(to, get(), bytes_, cudaMemcpyDefault), "cudaMemcpy"); }
  void check_guards(const char* name) const {
    std::vector<unsigned char> all(offset_ + bytes_ + kGuard);
    check(cudaMemcpy(all.data(), data_, all.size(), cudaMemcpyDefault), "cudaMemcpy");
    for (int64_t i = 0; i < static_cast<int64_t>(all.size()); ++i)
      require((i >= offset_ && i < offset_ + bytes_) || all[i] == 0xff, "written out of bounds of ", name);
  }

 private:
  static constexpr int64_t kGuard = 4096;
  void* data_ = nullptr;
  int64_t offset_, bytes_;
};

std::string run_call(const tconv_call& c) {
  const Problem p = problem_of(c);
  const LaunchPlan plan = make_launch_plan(p, static_cast<DType>(c.dtype), current_device(),
                                           {c.allow_tf32 != 0, c.kernel_name, c.tile, static_cast<int>(c.splits)});
  const int64_t bytes = storage_bytes(plan.dtype);
  int64_t in = 1, taps = 1;
  for (int i = 0; i < p.rank(); ++i) in *= p.in[i], taps *= p.kernel[i];
  const DeviceCopy x(c.x, c.x, p.batch * p.channels * in * bytes);
  const DeviceCopy w(c.w, c.w, p.channels * p.group_out() * taps * bytes);
  const DeviceCopy b(c.b, c.b, c.b ? p.out_channels * bytes : 0), z(c.z, c.z, c.z ? plan.y_count * bytes : 0);
  const DeviceCopy slopes(c.slopes, nullptr, c.slope_count * 4), y(nullptr, c.y, plan.y_count * bytes);
  const DeviceCopy packed(nullptr, nullptr, plan.packed_bytes), workspace(nullptr, nullptr, plan.workspace_bytes);
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");

  cudaStream_t stream;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  Operands operands{x.get(),
                    plan.packed_bytes > 0 ? packed.get() : w.get(),
                    c.b ? b.get() : nullptr,
                    c.z ? z.get() : nullptr,
                    y.get(),
                    nullptr,
                    workspace.get()};
  if (c.slope_count > 1) operands.slopes = reinterpret_cast<const float*>(slopes.get());
  check(pack(plan, w.get(), packed.get(), stream));
  check(run(plan, p, operands, stream));
  check(cudaStreamSynchronize(stream), "running the kernels");
  check(cudaStreamDestroy(stream), "cudaStreamDestroy");
  y.check_guards("Y");
  packed.check_guards("packed weights");
  workspace.check_guards("workspace");
  y.read(c.y);
  return plan.describe();
}

#endif

}  // namespace
}  // namespace ort_tconv::cuda

int tconv_run(const tconv_call* call, char* text, int64_t size) {
  try {
    std::snprintf(text, size, "%s", ort_tconv::cuda::run_call(*call).c_str());
    return 0;
  } catch (const std::exception& e) {
    std::snprintf(text, size, "%s", e.what());
    return 1;
  }
}
