#include "core/plan.h"

#include <algorithm>
#include <numeric>

#include "core/candidates.h"
#include "core/cost.h"
#include "core/integers.h"
#include "core/status.h"

namespace ort_tconv {

const char* name(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return "float32";
    case DType::kFloat64: return "float64";
    case DType::kFloat16: return "float16";
    case DType::kBFloat16: return "bfloat16";
  }
  return "?";
}

int storage_bytes(DType dtype) { return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2; }

const char* name(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::kDirect: return "direct";
    case Algorithm::kStacked: return "stacked";
    case Algorithm::kNarrow: return "narrow";
    case Algorithm::kWinograd: return "winograd";
  }
  return "?";
}

bool joins_rows(int64_t last_classes, int64_t vector_lanes) { return last_classes < 2 * vector_lanes; }

int64_t stacked_block(int64_t padded, int64_t last_classes, int64_t vector_lanes, int64_t step) {
  const int64_t together = std::lcm(step, last_classes);
  return std::min(padded, joins_rows(last_classes, vector_lanes) && together <= 16 * step ? together : step);
}

int64_t channel_chunk(int64_t channels, int64_t bytes, const Machine& machine) {
  const int64_t room = std::max<int64_t>(16, machine.l2_bytes / 4 / std::max<int64_t>(1, bytes));
  const int64_t chunks = ceil_div(channels, room + room / 8);
  return std::max<int64_t>(1, ceil_div(channels, std::max<int64_t>(1, chunks)));
}

WindowAxis::WindowAxis(const AxisGeometry& axis, int64_t t, int64_t beyond) : tile(t), offsets(axis.offsets) {
  if (offsets.empty()) offsets.push_back(0);  // no class has a tap: nothing is read
  const int64_t n = static_cast<int64_t>(offsets.size());
  const int64_t span = offsets.back() - offsets.front();
  dense = span + tile <= n * tile + 16;
  extent = dense ? span + tile + beyond : n * tile;
}

int64_t WindowAxis::position(int64_t offset) const {
  if (dense) return offset - offsets.front();
  return (std::lower_bound(offsets.begin(), offsets.end(), offset) - offsets.begin()) * tile;
}

std::vector<int> session_sizes(int threads) {
  std::vector<int> sizes{threads};
  while (sizes.back() > 1) sizes.push_back(std::max(1, sizes.back() / 4));
  return sizes;
}

std::string Plan::kind() const {
  std::string axes;
  for (size_t i = 0; i < transform.size(); ++i)
    if (transform[i] != Transform::kNone)
      axes += (axes.empty() ? " of axes " : ",") + std::to_string(i) + (transform[i] == Transform::kLarge ? "+" : "");
  const bool apart = algorithm == Algorithm::kWinograd && !aligned;
  return concat(name(algorithm), axes, apart ? " apart" : "", share == Share::kChannels ? " by channels" : "",
                size == TileSize::kSmall   ? " in small tiles"
                : size == TileSize::kLarge ? " in large tiles"
                                           : "");
}

std::string Plan::describe() const {
  return concat(kind(), aligned ? " aligned" : "", " tile ", tile, " x ", tiles, " block ", block, " x ", blocks, " (",
                blocks_per_task, " a task) channels ", channel_chunk, " tasks ", tasks, " scratch ", scratch_bytes,
                " B packed ", packed_bytes, " B cost ", cost, ": ", reason);
}

Plan make_plan(const Problem& problem, DType dtype, const Machine& machine, const std::string& algorithm) {
  const bool automatic = algorithm.empty() || algorithm == "auto";
  const bool known =
      std::any_of(std::begin(kAlgorithms), std::end(kAlgorithms), [&](Algorithm a) { return algorithm == name(a); });
  require(automatic || known, "attribute algorithm = '", algorithm,
          "': must be auto, direct, stacked, narrow or winograd");
  const auto wanted = [&](Algorithm a) { return automatic || algorithm == name(a); };

  std::vector<Plan> plans = session_candidates(problem, dtype, machine);
  std::string reason = automatic ? "cheapest of" : "asked for;";
  const Plan* best = nullptr;
  for (Algorithm a : kAlgorithms) {
    const Plan* of_algorithm = nullptr;
    for (Plan& p : plans) {
      if (p.algorithm != a || !wanted(a)) continue;
      p.cost = session_cost(p, problem, machine);
      if (!of_algorithm || p.cost < of_algorithm->cost) of_algorithm = &p;
    }
    if (!of_algorithm) continue;
    reason += concat(" ", name(a), " ", of_algorithm->cost);
    if (!best || of_algorithm->cost < best->cost) best = of_algorithm;
  }
  if (!best) {
    Plan plan = make_plan(problem, dtype, machine, name(Algorithm::kDirect));
    plan.reason =
        algorithm != name(Algorithm::kWinograd) ? "direct stands in: these sub-kernels have different taps"
        : problem.weights == WeightStorage::kInt8
            ? "direct stands in: sums of weights do not fit into int8"
            : "direct stands in: these sub-kernels have no Winograd form that saves products in little memory";
    return plan;
  }
  Plan plan = *best;
  plan.reason = reason;
  return plan;
}

}  // namespace ort_tconv
