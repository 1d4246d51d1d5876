#include "ort/cpu_node.h"

#include <algorithm>
#include <new>
#include <utility>

#include "core/status.h"
#include "cpu/arch.h"
#include "cpu/weight_cache.h"

namespace ort_tconv {
namespace {

constexpr size_t kPreparedShapes = 8;  // shapes a node remembers

}  // namespace

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

CpuNode::CpuNode(Attributes attributes, DType dtype)
    : dtype_(dtype), attributes_(std::move(attributes)), kernels_(kernel_set()), machine_(machine(kernels_)) {
  check_attributes(attributes_);
}

bool CpuNode::prepare_ahead(const Dims& declared, const Dims& w_shape, const void* w) {
  const Dims x_shape = likely_shape(declared, w_shape);
  if (x_shape.empty()) return false;
  const bool known = x_shape == declared;
  try {
    const auto prepared = prepare({x_shape, w_shape, {}, {}});
    if (element_count(prepared->problem().y_shape(), "output size") == 0) return known;
    return constant_weights(*prepared, w)->finite && known;  // others are read as they are (cpu/run.h)
  } catch (const Error&) {
    if (known) throw;
    return false;  // the guess did not fit; the shapes of the first run decide
  }
}

std::shared_ptr<const Prepared> CpuNode::prepare(const InputShapes& shapes) {
  const auto view = [](const std::shared_ptr<const Entry>& e) {
    return std::shared_ptr<const Prepared>(e, &e->prepared);
  };
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found =
        std::find_if(prepared_.begin(), prepared_.end(), [&](const auto& e) { return same(e->shapes, shapes); });
    if (found != prepared_.end()) {
      std::rotate(found, found + 1, prepared_.end());
      return view(prepared_.back());
    }
  }
  const auto entry = std::make_shared<const Entry>(
      Entry{shapes, Prepared(make_problem(attributes_, shapes), dtype_, kernels_, machine_, attributes_.algorithm)});
  std::lock_guard<std::mutex> lock(mutex_);
  if (prepared_.size() >= kPreparedShapes) prepared_.erase(prepared_.begin());
  prepared_.push_back(entry);
  return view(entry);
}

std::shared_ptr<const PackedWeights> CpuNode::constant_weights(const Prepared& prepared, const void* w) {
  std::lock_guard<std::mutex> lock(mutex_);  // the first run in a layout packs, others wait for it
  for (const auto& p : packed_)
    if (p->layout == prepared.layout()) return p;
  const Problem& p = prepared.problem();
  const int64_t count = p.channels * p.group_out() * element_count(p.kernel, "kernel size");
  require(w || count == 0, "input X has spatial shape ", p.in, " and batch ", p.batch,
          ", which is not the shape that the model declares");
  packed_.push_back(shared_weights(prepared, w, static_cast<size_t>(count * storage_bytes(dtype_))));
  return packed_.back();
}

void CpuNode::run(SessionExecutor& executor, const InputShapes& shapes, Tensors tensors, bool constant_w) {
  const auto prepared = prepare(shapes);
  const Dims y_shape = prepared->problem().y_shape();
  tensors.y = executor.output(0, y_shape);
  if (element_count(y_shape, "output size") == 0) return;
  const auto packed = constant_w ? constant_weights(*prepared, tensors.w) : prepared->pack(tensors.w);
  prepared->run(*packed, tensors, executor);
}

}  // namespace ort_tconv
