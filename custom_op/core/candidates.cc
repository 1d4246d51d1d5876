#include "core/candidates.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/integers.h"
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
bool heavy(int64_t packed_bytes, const Machine& m) { return packed_bytes > m.common_bytes(); }

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

// Vectors of output channels, and the share of them that stand alone in their block.
double channel_vectors(const Shape& s) { return static_cast<double>(ceil_div(s.mg, s.lanes)); }
double lone_vectors(const Shape& s, const Plan& plan) {
  if (plan.block == s.lanes) return 1;
  return round_up(s.mg, s.lanes) % plan.block == s.lanes ? 1 / channel_vectors(s) : 0;
}

double fetched_bytes(const Plan& plan) {
  return static_cast<double>(plan.packed_bytes) * static_cast<double>(tile_count(plan));
}

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
  const double vectors = channel_vectors(s), outputs = s.outputs();
  plan.work.multiply_adds = vectors * tap_pairs(s) * s.cg;
  plan.work.sums = plan.work.stores = vectors * outputs;
  plan.work.lone = lone_vectors(s, plan);
  plan.work.copies = static_cast<double>(tile_count(plan)) * s.window_positions(plan.tile) *
                     ceil_div(plan.blocks, plan.blocks_per_task) * pitch / s.lanes;
  plan.work.weight_bytes = fetched_bytes(plan);
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
  plan.work.multiply_adds = vectors * s.cg * taps * s.mg;
  plan.work.copies = vectors * s.cg;
  plan.work.stores = outputs * s.mg / s.lanes;
  plan.work.lone = s.mg * s.classes() < 4;
  plan.macs = channel_pairs(s) * tap_pairs(s);
  plan.packed_bytes = s.problem.group * s.mg * s.cg * bytes * product(s.problem.kernel);
  plan.work.weight_bytes = fetched_bytes(plan);
  return plan;
}

// Winograd on the axes given, which all have the form; the others keep their taps.  False if a tile takes too
// much memory.
bool plan_winograd(const Shape& s, const std::vector<bool>& transform, Share share, Plan* out) {
  Plan plan;
  plan.algorithm = Algorithm::kWinograd;
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
  if (scratch(tile_units) > 2 * kMostScratch) return false;
  const double vectors = channel_vectors(s), tiles = all_tiles;
  plan.work.multiply_adds = vectors * tiles * products * s.cg;
  plan.work.sums = vectors * tiles * gemms;
  plan.work.stores = vectors * outputs;
  plan.work.lone = lone_vectors(s, plan);
  plan.work.transforms = static_cast<double>(tile_count(plan)) * transformed(tile_units) * pitch / s.lanes *
                         ceil_div(plan.blocks, plan.blocks_per_task);
  plan.work.weight_bytes = fetched_bytes(plan);
  plan.macs = channel_pairs(s) * products * tiles;
  *out = std::move(plan);
  return true;
}

}  // namespace

std::vector<Plan> candidates(const Problem& problem, DType dtype, const Machine& machine) {
  std::vector<Plan> plans;
  std::vector<Share> shares{Share::kTiles};
  if (machine.threads > 1) shares.push_back(Share::kChannels);
  const Shape direct(problem, machine, dtype, false);
  for (Share share : shares) plans.push_back(plan_direct(direct, share));
  // A row that is shared by all classes is worth its one or two extra columns on wide images only.
  plans.push_back(plan_narrow(Shape(problem, machine, dtype, problem.in.back() >= 32)));
  const Shape winograd(problem, machine, dtype, true);
  const size_t d = winograd.axes.size();
  unsigned possible = 0;
  WinogradAxis ignored;
  for (size_t i = 0; i < d; ++i) possible |= unsigned{winograd_axis(winograd.axes[i], &ignored)} << i;
  for (unsigned mask = 1; mask < 1u << d; ++mask) {
    if (mask & ~possible) continue;
    std::vector<bool> transform(d);
    for (size_t i = 0; i < d; ++i) transform[i] = mask >> i & 1;
    Plan plan;
    for (Share share : shares)
      if (plan_winograd(winograd, transform, share, &plan)) plans.push_back(plan);
  }
  for (Plan& plan : plans) {
    const double group = static_cast<double>(problem.group);
    for (double* n :
         {&plan.work.multiply_adds, &plan.work.sums, &plan.work.stores, &plan.work.copies, &plan.work.transforms})
      *n *= group;
  }
  return plans;
}

}  // namespace ort_tconv
