#include "cpu/run.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>

#include "core/status.h"
#include "cpu/engine.h"
#include "cpu/exact.h"
#include "cpu/integer_weights.h"

namespace ort_tconv {

AlignedBuffer::AlignedBuffer(size_t n) : bytes(n) {
  // Weights are read from end to end: with small pages much of the time goes into finding them.
  constexpr size_t kLargePage = 2 << 20;
  const size_t alignment = n >= 2 * kLargePage ? kLargePage : 64;
  const size_t size = (std::max<size_t>(n, 1) + alignment - 1) / alignment * alignment;
  data.reset(std::aligned_alloc(alignment, size));
  if (!data) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (alignment == kLargePage) madvise(data.get(), size, MADV_HUGEPAGE);  // a wish: without it all is as before
#endif
}

namespace {

template <class S>
std::unique_ptr<Engine> make_engine(const Problem& p, const Plan& plan, const KernelSet& set, int threads) {
  switch (plan.algorithm) {
    case Algorithm::kDirect: return make_direct<S>(p, plan, set, threads);
    case Algorithm::kStacked: return make_stacked<S>(p, plan, set, threads);
    case Algorithm::kNarrow: return make_narrow<S>(p, plan, set, threads);
    case Algorithm::kWinograd: return make_winograd<S>(p, plan, set, threads);
  }
  fail("unknown algorithm");
}

std::unique_ptr<Engine> make_engine(const Problem& p, DType dtype, const Plan& plan, const KernelSet& set,
                                    int threads) {
  switch (dtype) {
    case DType::kFloat32: return make_engine<float>(p, plan, set, threads);
    case DType::kFloat64: return make_engine<double>(p, plan, set, threads);
    case DType::kFloat16: return make_engine<Half>(p, plan, set, threads);
    case DType::kBFloat16: return make_engine<BFloat16>(p, plan, set, threads);
  }
  fail("unknown element type");
}

}  // namespace

Problem simplified(const Problem& problem) {
  Problem p = problem;
  // Empty weights may have a kernel of any size: what it would sum is nothing.
  if (p.channels == 0 || p.out_channels == 0) {
    p.kernel.assign(p.kernel.size(), 1);
    p.dilation.assign(p.dilation.size(), 1);
  }
  if (!p.constant_weights) {  // nothing is kept
    p.weights = WeightStorage::kCompute;
    p.weight_scales.clear();
  }
  return spread_single_positions(p);
}

Problem normal_form(const Problem& problem) { return join_single_positions(simplified(problem)); }

Prepared::Prepared(const Problem& problem, DType dtype, const KernelSet& kernels, const Machine& machine,
                   const std::string& algorithm)
    : Prepared(problem, dtype, kernels, make_plan(normal_form(problem), dtype, machine, algorithm), machine.threads) {}
Prepared::Prepared(const Problem& problem, DType dtype, const KernelSet& kernels, const Plan& plan, int threads)
    : dtype_(dtype), kernels_(kernels), problem_(simplified(problem)),
      engine_(make_engine(normal_form(problem), dtype, plan, kernels, threads)) {
  require(problem.weights == WeightStorage::kCompute || dtype == DType::kFloat32, "attribute weights = '",
          name(problem.weights), "': inputs are ", name(dtype), ", must be float32");
}
Prepared::Prepared(Prepared&&) noexcept = default;
Prepared::~Prepared() = default;
const Problem& Prepared::problem() const { return problem_; }
const Plan& Prepared::plan() const { return engine_->plan; }
const std::vector<int64_t>& Prepared::layout() const { return engine_->layout; }

std::shared_ptr<const PackedWeights> Prepared::pack(const void* w) const {
  auto packed = std::make_shared<PackedWeights>(engine_->layout, engine_->packed_bytes);
  const Problem& p = problem();
  const int64_t count = p.channels * p.group_out() * product(p.kernel);
  if (count == 0) return packed;  // there may be any number of groups
  packed->finite = all_finite(dtype_, w, count);
  if (!packed->finite) return packed;
  Weights weights;
  weights.packed = static_cast<char*>(packed->buffer.data.get());
  if (engine_->integers) {
    IntegerWeights integers = integer_weights(p, static_cast<const float*>(w));
    packed->scales = std::move(integers.scales);
    engine_->pack(integers.values.data.get(), &weights, nullptr);
  } else {
    engine_->pack(w, &weights, nullptr);
  }
  // Sums of the transform may be beyond any form: then the weights are as good as not finite.
  require(weights.finite || p.weights == WeightStorage::kCompute,
          "input W has values too large for attribute weights = '", name(p.weights), "': only ",
          p.weights == WeightStorage::kFloat16 ? "bfloat16 and float32 have" : "float32 has", " the range");
  static_cast<Quality&>(*packed) = weights;
  return packed;
}

bool Prepared::reads_original(const PackedWeights& packed) const {
  return !packed.finite || engine_->reads_original(packed);
}

void Prepared::run(const PackedWeights& packed, const Tensors& given, Executor& executor) const {
  Tensors tensors = given;
  require(packed.layout == engine_->layout, "packed weights of another layout");
  Weights weights;
  weights.packed = static_cast<char*>(packed.buffer.data.get());
  static_cast<Quality&>(weights) = packed;
  // Without channels there is nothing to multiply, and X may be a null pointer.
  if (packed.finite && problem().channels > 0) {
    if (!packed.scales.empty()) tensors.w_scales = packed.scales.data();
    engine_->run(weights, tensors, executor);
  } else {
    run_by_definition(problem(), dtype_, kernels_, tensors, executor);
  }
}

void Prepared::run(const Tensors& tensors, Executor& executor) const {
  const auto release = [&](void* memory) { executor.release(memory); };
  std::unique_ptr<void, decltype(release)> memory(nullptr, release);
  Weights weights;
  bool done = false;
  if (problem().channels > 0) {
    if (!plan().pack_in_task) {
      memory.reset(executor.allocate(engine_->packed_bytes + 64));
      weights.packed = aligned(static_cast<char*>(memory.get()));
      engine_->pack(tensors.w, &weights, &executor);
    }
    done = weights.finite && engine_->run(weights, tensors, executor);
  }
  if (!done) run_by_definition(problem(), dtype_, kernels_, tensors, executor);
}

}  // namespace ort_tconv
