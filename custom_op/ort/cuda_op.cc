#ifdef ORT_TCONV_CUDA

#include "ort/cuda_op.h"

#include <algorithm>
#include <utility>

#include "cuda/device.h"

namespace ort_tconv {
namespace {

constexpr size_t kPreparedShapes = 8;  // shapes a node remembers

}  // namespace

ProviderMemory::ProviderMemory(OrtAllocator* allocator, int64_t bytes) : allocator_(allocator) {
  if (bytes == 0) return;
  try {
    data_ = allocator->Alloc(allocator, static_cast<size_t>(bytes));
  } catch (...) {  // ORT's allocators report by throwing, of their own types
  }
  if (!data_) throw std::bad_alloc();
}

ProviderMemory::ProviderMemory(const OrtApi& api, OrtKernelContext* context, OrtAllocator* allocator, int64_t bytes)
    : allocator_(allocator) {
  if (bytes == 0) return;
  const OrtMemoryInfo* info = nullptr;
  check(api, api.AllocatorGetInfo(allocator, &info));
  check(api, api.KernelContext_GetScratchBuffer(context, info, static_cast<size_t>(bytes), &data_));
  if (!data_) throw std::bad_alloc();
}

ProviderMemory::ProviderMemory(ProviderMemory&& other) noexcept
    : allocator_(other.allocator_), data_(std::exchange(other.data_, nullptr)) {}

ProviderMemory& ProviderMemory::operator=(ProviderMemory&& other) noexcept {
  std::swap(allocator_, other.allocator_);
  std::swap(data_, other.data_);
  return *this;
}

ProviderMemory::~ProviderMemory() {
  if (data_) allocator_->Free(allocator_, data_);
}

CudaKernel::CudaKernel(const OrtApi& api, const OrtKernelInfo* info, DType dtype)
    : api_(api), dtype_(dtype), name_(node_name(api, info)), attributes_(read_attributes(api, info)),
      allocator_(nullptr, api.ReleaseAllocator) {
  check_attributes(attributes_);
  OrtAllocator* allocator = nullptr;
  check(api_, api_.KernelInfoGetAllocator(info, OrtMemTypeDefault, &allocator));
  allocator_.reset(allocator);
  const auto& slopes = attributes_.activation_params;
  if (attributes_.activation == "PRelu" && slopes.size() > 1)
    slopes_ = ProviderMemory(allocator, static_cast<int64_t>(slopes.size() * sizeof(float)));

  int is_constant = 0;
  const OrtValue* w = nullptr;
  check(api_, api_.KernelInfoGetConstantInput_tensor(info, 1, &is_constant, &w));
  // The provider allocates on its device, whichever is current in this thread.
  const ProviderMemory probe(allocator, 16);
  const cuda::DeviceOf scope(probe.get());
  device_ = cuda::current_device();
  if (slopes_.get())
    cuda::copy_to_device(slopes_.get(), slopes.data(), static_cast<int64_t>(slopes.size() * sizeof(float)));
  if (is_constant && w) pack_ahead(info, w);
}

// For the shape the model declares, or a likely one: packed weights depend on little of it.  No stream of
// the session exists yet, and waiting is allowed.
void CudaKernel::pack_ahead(const OrtKernelInfo* info, const OrtValue* w) {
  const Dims declared = declared_shape(api_, info), w_shape = shape_of(api_, w);
  const InputShapes shapes{likely_shape(declared, w_shape), w_shape, {}, {}};
  if (shapes.x.empty()) return;
  std::shared_ptr<const Entry> entry;
  try {
    entry = prepare(shapes);
  } catch (const Error&) {
    if (shapes.x == declared) throw;
    return;  // the guess did not fit; every run packs for itself
  }
  const cuda::LaunchPlan& plan = entry->plan;
  if (plan.packed_bytes == 0) return;
  const void* data = data_of(api_, w);
  ProviderMemory copy;
  if (!cuda::on_device(data)) {
    const int64_t bytes = element_count(shapes.w, "size of W") * storage_bytes(dtype_);
    copy = ProviderMemory(allocator_.get(), bytes);
    cuda::copy_to_device(copy.get(), data, bytes);
    data = copy.get();
  }
  weights_.packed = ProviderMemory(allocator_.get(), plan.packed_bytes);
  const char* error = cuda::pack(plan, data, weights_.packed.get(), nullptr);
  require(!error, "CUDA: packing W of shape ", shapes.w, ": ", error ? error : "");
  cuda::finish_default_stream();
  weights_.layout = plan.layout();
}

std::shared_ptr<const CudaKernel::Entry> CudaKernel::prepare(const InputShapes& shapes) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found =
        std::find_if(prepared_.begin(), prepared_.end(), [&](const auto& e) { return same(e->shapes, shapes); });
    if (found != prepared_.end()) {
      std::rotate(found, found + 1, prepared_.end());
      return prepared_.back();
    }
  }
  const Problem problem = make_problem(attributes_, shapes);
  cuda::Options options;
  options.allow_tf32 = attributes_.allow_tf32 != 0;
  const auto entry =
      std::make_shared<const Entry>(Entry{shapes, problem, cuda::make_launch_plan(problem, dtype_, device_, options)});
  std::lock_guard<std::mutex> lock(mutex_);
  if (prepared_.size() >= kPreparedShapes) prepared_.erase(prepared_.begin());
  prepared_.push_back(entry);
  return entry;
}

void CudaKernel::compute(OrtKernelContext* context) {
  const Inputs inputs(api_, context);
  const auto entry = prepare(inputs.shapes);
  const cuda::LaunchPlan& plan = entry->plan;
  const Dims y_shape = entry->problem.y_shape();
  OrtValue* y = nullptr;
  check(api_, api_.KernelContext_GetOutput(context, 0, y_shape.data(), y_shape.size(), &y));
  if (plan.y_count == 0) return;
  void* stream = nullptr;
  check(api_, api_.KernelContext_GetGPUComputeStream(context, &stream));

  const auto launched = [&](const char* error) {
    require(!error, "CUDA: ", error ? error : "", " (X ", inputs.shapes.x, ", W ", inputs.shapes.w, ", Y ", y_shape,
            "; ", plan.describe(), ")");
  };
  cuda::Operands operands;
  operands.x = data_of(api_, inputs.x);
  operands.w = data_of(api_, inputs.w);
  if (inputs.b) operands.b = data_of(api_, inputs.b);
  if (inputs.z) operands.z = data_of(api_, inputs.z);
  operands.y = const_cast<void*>(data_of(api_, y));
  operands.slopes = static_cast<const float*>(slopes_.get());
  const ProviderMemory workspace(api_, context, allocator_.get(), plan.workspace_bytes);
  operands.workspace = workspace.get();
  ProviderMemory packed;
  if (plan.packed_bytes > 0) {
    if (weights_.packed.get() && weights_.layout == plan.layout()) {
      operands.w = weights_.packed.get();
    } else {
      packed = ProviderMemory(api_, context, allocator_.get(), plan.packed_bytes);
      launched(cuda::pack(plan, operands.w, packed.get(), stream));
      operands.w = packed.get();
    }
  }
  launched(cuda::run(plan, entry->problem, operands, stream));
}

OrtStatusPtr CudaKernel::ComputeV2(OrtKernelContext* context) noexcept {
  return guarded(api_, name_, [&] { compute(context); });
}

}  // namespace ort_tconv

#endif  // ORT_TCONV_CUDA
