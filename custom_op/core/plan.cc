#include "core/plan.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/integers.h"
#include "core/status.h"
#include "core/winograd.h"

namespace ort_tconv {
namespace {

struct Shape {  // what the choices below need, computed once
  const Problem& problem;
  const Machine& machine;
  DType dtype;
  bool aligned;
  std::vector<AxisGeometry> axes;
  int64_t lanes, cg, mg;

  Shape(const Problem& p, const Machine& m, DType t, bool align)
      : problem(p), machine(m), dtype(t), aligned(align), axes(segregate(p, align)),
        lanes(m.vector_bytes / compute_bytes(t)), cg(p.group_in()), mg(std::max<int64_t>(1, p.group_out())) {
    axes.insert(axes.begin(), batch_axis(p));  // the outermost axis of the domain
  }

  int64_t window_positions(const Dims& tile) const {
    int64_t n = 1;
    for (size_t i = 0; i < axes.size(); ++i) n *= WindowAxis(axes[i], tile[i]).extent;
    return n;
  }
  // Outputs of one channel of all images, and domain positions to share out, as one number each.
  double outputs() const {
    double n = 1;
    for (const auto& a : axes) n *= static_cast<double>(a.out);
    return n;
  }
  int64_t domain() const {
    int64_t n = 1;
    for (const auto& a : axes) n *= std::max<int64_t>(1, a.domain);
    return n;
  }
  int64_t classes() const {
    int64_t n = 1;
    for (const auto& a : axes) n *= static_cast<int64_t>(a.classes.size());
    return n;
  }
  int64_t last_classes() const { return static_cast<int64_t>(axes.back().classes.size()); }
};

int64_t tile_count(const Plan& plan) { return product(plan.tiles); }

// Cuts the domain into tiles until `fits` accepts one: always along the axis with the largest tile, where
// a row (the last axis) may be `row_ratio` times longer than the others, since it is what memory holds in
// one piece.  Sizes are in `units` of domain positions, an entry an axis.
template <class Fits>
void cut(Plan& plan, const Shape& s, const Dims& units, int64_t row_ratio, Fits fits) {
  const int d = static_cast<int>(s.axes.size());
  plan.tile.resize(d);
  plan.tiles.assign(d, 1);
  Dims domain(d);
  for (int i = 0; i < d; ++i) plan.tile[i] = domain[i] = std::max<int64_t>(1, ceil_div(s.axes[i].domain, units[i]));
  while (!fits(plan.tile)) {
    int best = d - 1;
    for (int i = 0; i < d - 1; ++i)
      if (plan.tile[i] > 1 && plan.tile[i] * row_ratio >= plan.tile[d - 1] &&
          (best == d - 1 || plan.tile[i] >= plan.tile[best]))
        best = i;
    if (plan.tile[best] == 1) {
      for (int i = 0; i < d; ++i)
        if (plan.tile[i] > plan.tile[best]) best = i;
      if (plan.tile[best] == 1) break;
    }
    const int64_t parts = plan.tiles[best] + std::max<int64_t>(1, plan.tiles[best] / 4);
    plan.tile[best] = std::max<int64_t>(1, std::min(plan.tile[best] - 1, ceil_div(domain[best], parts)));
    plan.tiles[best] = ceil_div(domain[best], plan.tile[best]);
  }
  for (int i = 0; i < d; ++i) plan.tile[i] *= units[i];
}

// Weights that leave no room in the last-level cache come from memory each time they are fetched.
bool heavy(int64_t packed_bytes, const Machine& m) { return packed_bytes > m.l3_bytes / 2; }

// Pairs of an output (of one channel) and a tap of its residue class, taps that meet padding included.
double tap_pairs(const Shape& s) {
  double pairs = 1;
  for (const auto& a : s.axes) {
    double taps = 0;
    for (const auto& c : a.classes) taps += static_cast<double>(c.taps.size()) * c.count;
    pairs *= taps;
  }
  return pairs;
}
double channel_pairs(const Shape& s) { return static_cast<double>(s.problem.group * s.mg * s.cg); }

// How threads get their work: tiles first, a few for each thread to even out what they take; or channels
// first, which each fetch their own weights, but all transform the same input.
enum class Share { kTiles, kChannels };

int64_t target_tasks(const Machine& m, Share share = Share::kTiles) {
  return m.threads == 1 || share == Share::kChannels ? m.threads : 4 * static_cast<int64_t>(m.threads);
}

// Work left after tiling and batching is split along output channels.
void split_blocks(Plan& plan, const Shape& s, Share share = Share::kTiles) {
  const int64_t base = std::max<int64_t>(1, s.problem.group * tile_count(plan));
  const int64_t chunks = std::min(plan.blocks, ceil_div(target_tasks(s.machine, share), base));
  plan.blocks_per_task = std::max<int64_t>(1, plan.blocks / std::max<int64_t>(1, chunks));  // at least so many
  plan.tasks = base * ceil_div(plan.blocks, plan.blocks_per_task);
}

// Longest thread over the mean one, if all tasks take equally long.
double imbalance(const Plan& plan, const Machine& m) {
  const int64_t tasks = std::max<int64_t>(1, plan.tasks);
  return static_cast<double>(ceil_div(tasks, m.threads) * m.threads) / static_cast<double>(tasks);
}

// Of all threads: arithmetic, and the packed weights fetched once a tile.  Those from memory, whose bandwidth
// the threads share, come while the last ones are used; what that hides was fitted to measurements.
double total_cost(const Plan& plan, const Machine& m, double arithmetic) {
  arithmetic *= imbalance(plan, m);
  const double bytes = static_cast<double>(plan.packed_bytes) * static_cast<double>(tile_count(plan));
  if (!plan.heavy) return arithmetic + 0.03 * bytes;
  const double traffic = bytes * std::max(0.36, 0.22 * m.threads);
  return std::max(arithmetic, traffic) + 0.4 * std::min(arithmetic, traffic);
}

// A block of a single vector keeps the multipliers waiting for loads.
double gemm_vectors(const Shape& s, const Plan& plan) {
  const int64_t vectors = ceil_div(s.mg, s.lanes);
  const bool lone = plan.block == s.lanes || (vectors * s.lanes) % plan.block == s.lanes;
  return static_cast<double>(vectors) + (plan.block == s.lanes ? 0.6 * static_cast<double>(vectors) : lone ? 0.6 : 0.);
}
constexpr double kGemmStart = 10;  // of each sum, in multiply-adds: first loads, last stores

constexpr int64_t kMaxClassChunk = 256;
constexpr int64_t kMostScratch = 7 << 19;  // of a thread, with half a MiB to spare for the small arrays

Plan plan_direct(const Shape& s, Share share) {
  Plan plan;
  plan.algorithm = Algorithm::kDirect;
  const int64_t bytes = compute_bytes(s.dtype);
  plan.block = std::min(round_up(s.mg, s.lanes), s.machine.max_vectors * s.lanes);
  plan.blocks = ceil_div(s.mg, plan.block);
  plan.class_chunk = std::min(s.last_classes(), kMaxClassChunk);

  plan.packed_bytes = s.problem.group * plan.blocks * plan.block * s.cg * bytes * product(s.problem.kernel);
  // Heavy weights are fetched once for all tasks together: those share out the channels, not the pixels.
  plan.heavy = heavy(plan.packed_bytes, s.machine);
  const int64_t channel_tasks = plan.heavy || share == Share::kChannels ? plan.blocks : 1;

  // A tile's window stays in half of L2, its results (one block of channels) in a quarter.
  const int64_t pitch = round_up(s.cg, s.lanes);
  const auto window = [&](const Dims& t) { return s.window_positions(t) * pitch * bytes; };
  const auto results = [&](const Dims& t) { return product(t) * plan.class_chunk * plan.block * bytes; };
  const int64_t tasks_wanted = target_tasks(s.machine, share);
  const int64_t base = std::max<int64_t>(1, s.problem.group);
  const int64_t domain = s.domain();
  // Pixels a tile should keep to make fetching the weights worth it, while other ways to split remain.
  const int64_t least = 48;
  cut(plan, s, Dims(s.axes.size(), 1), 16, [&](const Dims& t) {
    const int64_t n = product(t);
    const bool enough_tasks = base * channel_tasks * ceil_div(domain, n) >= tasks_wanted || n <= 2 * least;
    return n == 1 || (n <= 256 && enough_tasks && (n <= least || window(t) <= s.machine.l2_bytes / 2) &&
                      results(t) <= std::max<int64_t>(s.machine.l2_bytes / 4, 64 * 1024));
  });

  int64_t class_taps = 1;
  for (const auto& a : s.axes) {
    size_t most = 1;
    for (const auto& c : a.classes) most = std::max(most, c.taps.size());
    class_taps *= static_cast<int64_t>(most);
  }
  // The weights of one block and class stay in a quarter of L2 while the tile's pixels pass.
  const int64_t line = class_taps * plan.block * bytes;
  plan.channel_chunk = std::max<int64_t>(16, s.machine.l2_bytes / 4 / std::max<int64_t>(1, line));
  if (plan.channel_chunk >= s.cg) plan.channel_chunk = std::max<int64_t>(1, s.cg);

  split_blocks(plan, s, share);
  const double vectors = static_cast<double>(ceil_div(s.mg, s.lanes)), outputs = s.outputs();
  const double per_image = gemm_vectors(s, plan) * (tap_pairs(s) * s.cg + kGemmStart * outputs) + vectors * 6 * outputs;
  const double window_copies = static_cast<double>(tile_count(plan)) * s.window_positions(plan.tile) *
                               ceil_div(plan.blocks, plan.blocks_per_task) * pitch / s.lanes * 3;
  plan.cost = total_cost(plan, s.machine, s.problem.group * (per_image + window_copies));
  plan.macs = channel_pairs(s) * tap_pairs(s);
  return plan;
}

Plan plan_narrow(const Shape& s) {
  Plan plan;
  plan.algorithm = Algorithm::kNarrow;
  plan.aligned = s.aligned;
  const int64_t bytes = compute_bytes(s.dtype);
  // As many channels as give a row kernel, which takes those of all sub-kernels, its fill of rows.
  plan.block = std::clamp<int64_t>(s.machine.max_rows / std::max<int64_t>(1, s.classes()), 1, s.mg);
  plan.blocks = ceil_div(s.mg, plan.block);
  plan.class_chunk = s.last_classes();
  plan.channel_chunk = s.cg;

  // Rows stay whole while their window fits in a part of L2; results pass through L1.
  const auto need = [&](const Dims& t) { return s.window_positions(t) * s.cg * bytes; };
  const int64_t tasks_wanted = target_tasks(s.machine);
  const int64_t base = std::max<int64_t>(1, s.problem.group);
  const int64_t domain = s.domain();
  cut(plan, s, Dims(s.axes.size(), 1), 128, [&](const Dims& t) {
    const int64_t n = product(t);
    const bool enough_tasks = base * ceil_div(domain, n) >= tasks_wanted || n <= 16 * s.lanes;
    return n == 1 || (enough_tasks && need(t) <= s.machine.l2_bytes / 2);
  });
  split_blocks(plan, s);

  const double outputs = s.outputs();
  double taps = 1;
  for (const auto& a : s.axes) {
    double n = 0;
    for (const auto& c : a.classes) n += static_cast<double>(c.taps.size());
    taps *= n;
  }
  const double vectors = static_cast<double>(tile_count(plan)) * ceil_div(s.window_positions(plan.tile), s.lanes);
  // A row kernel with few rows is bound by its loads: two a cycle, like the multiply-adds.
  const double load_bound = s.mg * s.classes() >= 4 ? 1.25 : 2.0;
  plan.cost = imbalance(plan, s.machine) * s.problem.group *
              (vectors * s.cg * (taps * s.mg * load_bound + 2) + 4 * outputs * s.mg / s.lanes);
  plan.macs = channel_pairs(s) * tap_pairs(s);
  plan.packed_bytes = s.problem.group * s.mg * s.cg * bytes * product(s.problem.kernel);
  return plan;
}

// Winograd on the axes given, which all have the form; the others keep their taps.  The cost stays infinite if
// a tile takes too much memory.
Plan plan_winograd(const Shape& s, const std::vector<bool>& transform, Share share) {
  Plan plan;
  plan.algorithm = Algorithm::kWinograd;
  plan.cost = std::numeric_limits<double>::infinity();
  plan.aligned = s.aligned;
  plan.transform = transform;
  const int64_t bytes = compute_bytes(s.dtype);
  const size_t d = s.axes.size();
  std::vector<WinogradAxis> axes;
  Dims units;
  // Over all sub-kernels of one Winograd tile: GEMMs, and products summed in them.
  double gemms = 1, products = 1, all_tiles = 1, unit_tiles = 1;
  int64_t points = 1, class_points = 1;
  for (size_t i = 0; i < d; ++i) {
    WinogradAxis axis = plain_axis(s.axes[i]);
    if (transform[i]) winograd_axis(s.axes[i], &axis);
    units.push_back(axis.unit());
    unit_tiles *= static_cast<double>(axis.spacing);
    points *= axis.points;
    int64_t most = 0;
    double axis_gemms = 0, axis_products = 0;
    for (int k : axis.kind_of_class) {
      most = std::max<int64_t>(most, axis.kinds[k].alpha);
      axis_gemms += axis.kinds[k].alpha;
      axis_products += axis.plain ? axis.kinds[k].taps : axis.kinds[k].alpha * static_cast<double>(axis.groups);
    }
    gemms *= axis_gemms;
    products *= axis_products;
    class_points *= most;
    all_tiles *= static_cast<double>(std::max<int64_t>(1, axis.tiles(s.axes[i].domain)));
    axes.push_back(std::move(axis));
  }

  plan.block = std::min(round_up(s.mg, s.lanes), s.machine.max_vectors * s.lanes);
  plan.blocks = ceil_div(s.mg, plan.block);
  plan.class_chunk = s.last_classes();
  plan.channel_chunk = s.cg;
  const int64_t pitch = round_up(s.cg, s.lanes);
  // Of a tile, in units: positions of its window, and of its transformed input, where plain and sliding axes
  // add their halo.
  const auto window = [&](size_t i, int64_t t) {
    return static_cast<double>(WindowAxis(s.axes[i], t * units[i], axes[i].beyond()).extent);
  };
  const auto window_positions = [&](const Dims& t) {
    double n = 1;
    for (size_t i = 0; i < d; ++i) n *= window(i, t[i]);
    return n;
  };
  const auto transformed = [&](const Dims& t) {
    double n = static_cast<double>(points);
    for (size_t i = 0; i < d; ++i) n *= axes[i].plain || axes[i].sliding ? window(i, t[i]) : static_cast<double>(t[i]);
    return n;
  };
  const int64_t base = std::max<int64_t>(1, s.problem.group);
  const int64_t tasks_wanted = target_tasks(s.machine, share);
  plan.packed_bytes =
      static_cast<int64_t>(static_cast<double>(s.problem.group * round_up(s.mg, s.lanes) * s.cg * bytes) * products);
  // The transformed input of a tile stays near (L2 and a share of L3), its products in half of L2; the
  // weights want a few dozen Winograd tiles to each fetch, heavy ones more, and no second task to fetch
  // them again.
  const int64_t least = 24;
  plan.heavy = heavy(plan.packed_bytes, s.machine);
  const int64_t channel_tasks = plan.heavy || share == Share::kChannels ? plan.blocks : 1;
  const int64_t most_transformed = plan.heavy ? int64_t{5} << 19 : 2 * s.machine.l2_bytes;
  const auto results = [&](const Dims& t) {
    return s.last_classes() * class_points * product(t) * unit_tiles * plan.block * bytes;
  };
  const auto input = [&](const Dims& t) { return transformed(t) * pitch * bytes; };
  const auto scratch = [&](const Dims& t) { return input(t) + window_positions(t) * pitch * bytes + 3 * results(t); };
  cut(plan, s, units, 12, [&](const Dims& t) {
    const double n = product(t) * unit_tiles;
    const bool enough_tasks = base * channel_tasks * std::ceil(all_tiles / n) >= tasks_wanted || n <= least;
    return n == 1 || (n <= 96 && enough_tasks && input(t) <= most_transformed && results(t) <= s.machine.l2_bytes / 2 &&
                      scratch(t) <= kMostScratch);
  });
  split_blocks(plan, s, share);

  const double outputs = s.outputs();
  Dims tile_units = plan.tile;
  for (size_t i = 0; i < d; ++i) tile_units[i] /= units[i];
  // Taps far apart leave no small tile.
  if (scratch(tile_units) > 2 * kMostScratch) return plan;
  const double vectors = static_cast<double>(ceil_div(s.mg, s.lanes)), tiles = all_tiles;
  const double loads = static_cast<double>(tile_count(plan)) * transformed(tile_units) * pitch / s.lanes;
  plan.cost = total_cost(
      plan, s.machine,
      static_cast<double>(s.problem.group) *
          (gemm_vectors(s, plan) * tiles * (products * s.cg + kGemmStart * gemms) +
           vectors * (tiles * 4 * gemms + 6 * outputs) + 8 * loads * ceil_div(plan.blocks, plan.blocks_per_task)));
  plan.macs = channel_pairs(s) * products * tiles;
  return plan;
}

// The cheaper way to share out the work; one thread has no choice.
template <class Make>
Plan cheaper_share(const Machine& m, Make make) {
  Plan tiles = make(Share::kTiles);
  if (m.threads == 1) return tiles;
  Plan channels = make(Share::kChannels);
  return channels.cost < tiles.cost ? channels : tiles;
}

Plan plan_direct(const Shape& s) {
  return cheaper_share(s.machine, [&](Share share) { return plan_direct(s, share); });
}

// The cheapest choice of axes; false if none can be transformed.
bool plan_winograd(const Shape& s, Plan* out) {
  const size_t d = s.axes.size();
  std::vector<bool> possible(d);
  WinogradAxis ignored;
  for (size_t i = 0; i < d; ++i) possible[i] = winograd_axis(s.axes[i], &ignored);
  bool found = false;
  for (unsigned mask = 1; mask < 1u << d; ++mask) {
    std::vector<bool> transform(d);
    bool ok = true;
    for (size_t i = 0; i < d; ++i) {
      transform[i] = mask >> i & 1;
      ok = ok && (!transform[i] || possible[i]);
    }
    if (!ok) continue;
    Plan plan = cheaper_share(s.machine, [&](Share share) { return plan_winograd(s, transform, share); });
    if (std::isinf(plan.cost) || (found && plan.cost >= out->cost)) continue;
    *out = std::move(plan);
    found = true;
  }
  return found;
}

}  // namespace

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
    case Algorithm::kNarrow: return "narrow";
    case Algorithm::kWinograd: return "winograd";
  }
  return "?";
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

std::string Plan::describe() const {
  std::string axes;
  for (size_t i = 0; i < transform.size(); ++i)
    if (transform[i]) axes += (axes.empty() ? " of axes " : ",") + std::to_string(i);
  return concat(name(algorithm), axes, aligned ? " aligned" : "", " tile ", tile, " x ", tiles, " block ", block, " x ",
                blocks, " (", blocks_per_task, " a task) channels ", channel_chunk, " tasks ", tasks, " scratch ",
                scratch_bytes, " B packed ", packed_bytes, " B cost ", cost, ": ", reason);
}

Plan make_plan(const Problem& problem, DType dtype, const Machine& machine, const std::string& algorithm) {
  const bool automatic = algorithm.empty() || algorithm == "auto";
  const bool known =
      std::any_of(std::begin(kAlgorithms), std::end(kAlgorithms), [&](Algorithm a) { return algorithm == name(a); });
  require(automatic || known, "attribute algorithm = '", algorithm, "': must be auto, direct, narrow or winograd");
  const auto wanted = [&](Algorithm a) { return automatic || algorithm == name(a); };

  std::vector<Plan> plans;
  if (wanted(Algorithm::kDirect)) plans.push_back(plan_direct(Shape(problem, machine, dtype, false)));
  // A row that is shared by all classes is worth its one or two extra columns on wide images only.
  if (wanted(Algorithm::kNarrow)) plans.push_back(plan_narrow(Shape(problem, machine, dtype, problem.in.back() >= 32)));
  Plan winograd;
  if (wanted(Algorithm::kWinograd) && plan_winograd(Shape(problem, machine, dtype, true), &winograd))
    plans.push_back(winograd);
  if (plans.empty()) {
    Plan plan = plan_direct(Shape(problem, machine, dtype, false));
    plan.reason = "direct stands in: these sub-kernels have no Winograd form that saves products in little memory";
    return plan;
  }
  std::string reason = automatic ? "cheapest of" : "asked for;";
  for (const Plan& p : plans) reason += concat(" ", name(p.algorithm), " ", p.cost);
  Plan plan =
      *std::min_element(plans.begin(), plans.end(), [](const Plan& l, const Plan& r) { return l.cost < r.cost; });
  plan.reason = reason;
  return plan;
}

}  // namespace ort_tconv
