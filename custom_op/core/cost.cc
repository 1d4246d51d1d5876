#include "core/cost.h"

#include <algorithm>
#include <cmath>

#include "core/candidates.h"
#include "core/integers.h"

namespace ort_tconv {
namespace {

// How far a tile outgrows the near caches: 0 up to a quarter of the second level, 1 at all of it, and so on with
// each four times of it.
double outgrown(double bytes, const Machine& m) {
  return std::max(0.0, 1 + std::log2(bytes / static_cast<double>(m.l2_bytes)) / 2);
}

// One after the other, on one core, the weights in reach.
double arithmetic(const Work& w, Algorithm algorithm, const Machine& m, const CostConstants& k) {
  const double tasks = k.task * w.tasks, out = outgrown(w.tile_bytes, m);
  if (algorithm == Algorithm::kNarrow)
    return (1 + k.row_outgrown * out) * (k.row * w.multiply_adds + k.row_load * w.loads) + k.row_copy * w.copies +
           k.row_store * w.stores + tasks;
  const double sums = (1 + k.outgrown * out) * (w.multiply_adds + k.stall * w.stalls) + k.weight_load * w.loads +
                      k.sum * w.sums + k.store * w.stores + tasks;
  return algorithm == Algorithm::kWinograd ? sums + k.transform * w.copies + k.transform_back * w.sums
                                           : sums + k.copy * w.copies;
}

// 0 where `bytes` are within `cache`, 1 from twice as many on.
double beyond(double bytes, int64_t cache) {
  return std::clamp(bytes / static_cast<double>(std::max<int64_t>(1, cache)) - 1, 0.0, 1.0);
}

// Weights are fetched once a tile.  Where the last tile or the last run left them depends on their size; where
// other layers ran since, on nothing: they come from memory.  A plan is made for either, so the first fetch of a
// run is the mean of both.  No weights are free.
double fetching(const Plan& plan, const Machine& m, const CostConstants& k) {
  const double packed = static_cast<double>(plan.packed_bytes);
  const double memory = std::max(k.memory_byte, k.shared_byte * m.threads);
  const double far = beyond(packed, m.l2_bytes / 2), gone = beyond(packed, m.common_bytes());
  const double again = (1 - far) * k.near_byte + far * ((1 - gone) * k.far_byte + gone * memory);
  return packed * (again + memory) / 2 + (plan.work.weight_bytes - packed) * again;
}

// Of weights that are not constant, which all threads pack together.
double packing(const Plan& plan, const CostConstants& k) {
  const double each = plan.algorithm == Algorithm::kDirect     ? k.pack
                      : plan.algorithm == Algorithm::kWinograd ? k.pack_transformed
                                                               : k.pack_single;
  return each * plan.work.packs;
}

}  // namespace

std::vector<std::pair<const char*, double CostConstants::*>> constant_names() {
  using K = CostConstants;
  return {{"stall", &K::stall},
          {"weight_load", &K::weight_load},
          {"sum", &K::sum},
          {"task", &K::task},
          {"wake", &K::wake},
          {"copy", &K::copy},
          {"transform", &K::transform},
          {"transform_back", &K::transform_back},
          {"store", &K::store},
          {"row", &K::row},
          {"row_load", &K::row_load},
          {"row_copy", &K::row_copy},
          {"row_store", &K::row_store},
          {"outgrown", &K::outgrown},
          {"row_outgrown", &K::row_outgrown},
          {"near_byte", &K::near_byte},
          {"far_byte", &K::far_byte},
          {"memory_byte", &K::memory_byte},
          {"shared_byte", &K::shared_byte},
          {"exposed", &K::exposed},
          {"kept_byte", &K::kept_byte},
          {"pack", &K::pack},
          {"pack_transformed", &K::pack_transformed},
          {"pack_single", &K::pack_single}};
}

// Fitted to benchmarks/recordings (benchmarks/fit_costs.py), of AVX2 and of the baseline.  No processor with AVX-512
// has been recorded: what differs there follows from layers that were measured on one.
CostConstants cost_constants(const std::string& isa) {
  CostConstants k;
  // Vectors of 64 bytes, on processors whose cores get fewer bytes of memory in the time of a multiply-add: the
  // layers measured on one are in tests/core/test_plan.py.
  if (isa == "avx512" || isa == "emulated512") {
    k.near_byte = 0.001;
    k.far_byte = 0.005;
    k.memory_byte = 0.6;
    k.shared_byte = 0.35;
  } else if (isa == "baseline") {
    // A multiply-add takes two or three instructions, on vectors of 16 bytes: most else costs less beside it.
    k.stall = 1.8;
    k.weight_load = 2.1;
    k.sum = 0.11;
    k.task = 9600;
    k.wake = 3300;
    k.copy = 0.5;
    k.transform = 6;
    k.transform_back = 2.6;
    k.store = 27;
    k.row_load = 0.15;
    k.row_copy = 0.1;
    k.row_store = 7.4;
    k.outgrown = 0.003;
    k.row_outgrown = 0.35;
    k.near_byte = 0.001;
    k.far_byte = 0.005;
    k.memory_byte = 0.11;
    k.shared_byte = 0.044;
    k.exposed = 0.2;
  }
  return k;
}

double cost(const Plan& plan, const Machine& m, const CostConstants& k) {
  const double woken = plan.tasks > 1 ? k.wake * (m.threads - 1) : 0;
  const double sums = plan.work.imbalance * arithmetic(plan.work, plan.algorithm, m, k) + woken;
  const double weights = fetching(plan, m, k);
  // Weights that are packed in every run are not kept.
  const double kept = plan.work.packs > 0 ? 0 : static_cast<double>(plan.packed_bytes);
  return packing(plan, k) + std::max(sums, weights) + k.exposed * std::min(sums, weights) +
         k.kept_byte * m.threads * kept;
}

double cost_with(int threads, const Plan& plan, const Problem& problem, const Machine& machine) {
  Plan shared = plan;
  shared.work.imbalance = imbalance(plan, problem, threads);
  Machine session = machine;
  session.threads = threads;
  return cost(shared, session);
}

double session_cost(const Plan& plan, const Problem& problem, const Machine& machine) {
  const std::vector<int> sizes = session_sizes(machine.threads);
  if (sizes.size() == 1) return cost_with(sizes[0], plan, problem, machine);
  double logarithms = 0;
  for (int threads : sizes) logarithms += std::log(cost_with(threads, plan, problem, machine));
  return std::exp(logarithms / static_cast<double>(sizes.size()));
}

}  // namespace ort_tconv
