#include "core/cost.h"

#include <algorithm>

#include "core/integers.h"

namespace ort_tconv {
namespace {

// Longest thread over the mean one, if all tasks take equally long.
double imbalance(const Plan& plan, const Machine& m) {
  const int64_t tasks = std::max<int64_t>(1, plan.tasks);
  return static_cast<double>(ceil_div(tasks, m.threads) * m.threads) / static_cast<double>(tasks);
}

// One after the other, on one core, with everything in reach.
double arithmetic(const Plan& plan) {
  const Work& w = plan.work;
  // A row kernel with few rows is bound by its loads: two a cycle, like the multiply-adds.
  if (plan.algorithm == Algorithm::kNarrow)
    return (w.lone > 0 ? 2.0 : 1.25) * w.multiply_adds + 2 * w.copies + 4 * w.stores;
  // A block of a single vector keeps the multipliers waiting for loads; a sum has first loads and last stores.
  const double gemm = (1 + 0.6 * w.lone) * (w.multiply_adds + 10 * w.sums) + 6 * w.stores;
  return plan.algorithm == Algorithm::kDirect ? gemm + 3 * w.copies : gemm + 4 * w.sums + 8 * w.transforms;
}

}  // namespace

double cost(const Plan& plan, const Machine& m) {
  const double arithmetic = imbalance(plan, m) * ort_tconv::arithmetic(plan);
  if (plan.algorithm == Algorithm::kNarrow) return arithmetic;
  if (!plan.heavy) return arithmetic + 0.03 * plan.work.weight_bytes;
  // Weights from memory, whose bandwidth the threads share, come while the last ones are used; what that hides
  // was fitted to measurements.
  const double traffic = plan.work.weight_bytes * std::max(0.36, 0.22 * m.threads);
  return std::max(arithmetic, traffic) + 0.4 * std::min(arithmetic, traffic);
}

}  // namespace ort_tconv
