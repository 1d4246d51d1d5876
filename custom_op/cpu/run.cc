#include "cpu/run.h"

#include <algorithm>
#include <new>

#include "core/status.h"
#include "cpu/engine.h"
#include "cpu/exact.h"

namespace ort_tconv {

AlignedBuffer::AlignedBuffer(size_t n) : bytes(n) {
  const size_t size = (std::max<size_t>(n, 1) + 63) / 64 * 64;
  data.reset(std::aligned_alloc(64, size));
  if (!data) throw std::bad_alloc();
}

namespace {

template <class S>
std::unique_ptr<Engine> make_engine(const Problem& p, const Plan& plan, const KernelSet& set, int threads) {
  switch (plan.algorithm) {
    case Algorithm::kDirect: return make_direct<S>(p, plan, set, threads);
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

Problem without_void_taps(const Problem& problem) {
  Problem p = problem;
  if (p.channels == 0 || p.out_channels == 0) {
    p.kernel.assign(p.kernel.size(), 1);
    p.dilation.assign(p.dilation.size(), 1);
  }
  return p;
}

Prepared::Prepared(const Problem& problem, DType dtype, const KernelSet& kernels, const Machine& machine,
                   const std::string& algorithm)
    : dtype_(dtype), kernels_(kernels) {
  const Problem p = spread_single_positions(without_void_taps(problem));
  engine_ = make_engine(p, dtype, make_plan(p, dtype, machine, algorithm), kernels, machine.threads);
}
Prepared::Prepared(Prepared&&) noexcept = default;
Prepared::~Prepared() = default;
const Problem& Prepared::problem() const { return engine_->problem; }
const Plan& Prepared::plan() const { return engine_->plan; }
const std::vector<int64_t>& Prepared::layout() const { return engine_->layout; }

std::shared_ptr<const PackedWeights> Prepared::pack(const void* w) const {
  auto packed = std::make_shared<PackedWeights>(PackedWeights{engine_->layout, AlignedBuffer(engine_->packed_bytes)});
  const Problem& p = problem();
  const int64_t count = p.channels * p.group_out() * product(p.kernel);
  if (count == 0) return packed;  // there may be any number of groups
  engine_->pack(w, *packed);
  packed->finite = all_finite(dtype_, w, count);
  return packed;
}

void Prepared::run(const PackedWeights& weights, const Tensors& tensors, Executor& executor) const {
  require(weights.layout == engine_->layout, "packed weights of another layout");
  // Without channels there is nothing to multiply, and X may be a null pointer.
  if (weights.finite && problem().channels > 0) engine_->run(weights, tensors, executor);
  else run_by_definition(problem(), dtype_, kernels_, tensors, executor);
}

}  // namespace ort_tconv
