#include "core/candidates.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <queue>
#include <utility>
#include <vector>

#include "core/integers.h"
#include "core/product_time.h"
#include "core/row_layout.h"
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
bool is_heavy(int64_t packed_bytes, const Machine& m) { return packed_bytes > m.common_bytes(); }

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
// The same without those that meet padding.
double met_pairs(const Shape& s) {
  double pairs = 1;
  for (const auto& a : s.axes) {
    double met = 0;
    for (const auto& c : a.classes)
      for (const Tap& t : c.taps) {
        const int64_t first = std::max(c.shift, -t.offset), end = std::min(c.shift + c.count, a.in - t.offset);
        met += static_cast<double>(std::max<int64_t>(0, end - first));
      }
    pairs *= met;
  }
  return pairs;
}
double channel_pairs(const Shape& s) { return static_cast<double>(s.problem.group * s.mg * s.cg); }

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

double channel_vectors(const Shape& s) { return static_cast<double>(ceil_div(s.mg, s.lanes)); }

// Calls f(number of tiles, their extents) for the whole tiles and those cut short at the end of any axis, in
// units of domain positions.
template <class F>
void for_sizes(const Plan& plan, const Shape& s, const Dims& units, F f) {
  const size_t d = s.axes.size();
  Dims extent(d);
  for (unsigned ends = 0; ends < 1u << d; ++ends) {
    double n = 1;
    for (size_t i = 0; i < d; ++i) {
      const bool end = ends >> i & 1;
      const int64_t whole = plan.tile[i] / units[i], all = std::max<int64_t>(1, ceil_div(s.axes[i].domain, units[i]));
      const int64_t last = all - (plan.tiles[i] - 1) * whole;
      extent[i] = end ? last : whole;
      n *= static_cast<double>(last == whole ? (end ? 0 : plan.tiles[i]) : (end ? 1 : plan.tiles[i] - 1));
    }
    if (n > 0) f(n, extent);
  }
}

// Matrix products of a tile with n pixels in each, over all vectors of output channels: the multiply-adds they
// lose and the vectors of weights they load, if `products` is the number of pairs of weights and pixels' values.
void add_gemms(const Shape& s, int64_t channels, int64_t block, double tiles, int64_t n, double products, Work* work) {
  const int64_t vectors = ceil_div(channels, s.lanes), wide = block / s.lanes, rest = vectors % wide;
  const auto add = [&](int64_t count, int64_t nv) {
    const int64_t most = s.machine.max_pixels;
    work->stalls += tiles * products * static_cast<double>(count * (product_time(n, nv, most) - n * nv));
    work->loads += tiles * products * static_cast<double>(count * nv * ceil_div(n, most));
  };
  add(vectors / wide, wide);
  if (rest > 0) add(1, rest);
}

int64_t weight_bytes(const Shape& s) { return ort_tconv::weight_bytes(s.problem.weights, s.dtype); }

// Weights that come from memory for the most part are fetched ahead, unless the task that uses them has just packed
// them: from caches, processors find what is read in order by themselves, and sooner.  Weights that are not constant
// are packed by the task that uses them if no other does, and beforehand otherwise.
void plan_weights(Plan& plan, const Shape& s) {
  plan.fetch = 2 * plan.packed_bytes > 3 * s.machine.common_bytes();
  if (s.problem.constant_weights) return;
  plan.work.packs = static_cast<double>(plan.packed_bytes / weight_bytes(s));
  const bool by_task = plan.algorithm == Algorithm::kDirect || plan.algorithm == Algorithm::kStacked;
  plan.pack_in_task = by_task && tile_count(plan) == 1;
  if (plan.pack_in_task) plan.fetch = false;
}

double fetched_bytes(const Plan& plan) {
  return static_cast<double>(plan.packed_bytes) * static_cast<double>(tile_count(plan));
}

// `n` for tiles of the usual size, half or twice of it for others.
int64_t scaled(int64_t n, TileSize size) {
  return size == TileSize::kSmall ? n / 2 : size == TileSize::kLarge ? 2 * n : n;
}

constexpr int64_t kMaxClassChunk = 256;
constexpr int64_t kMostPacked = 256 << 20;  // of Winograd's weights, more than which nobody wants to keep for a layer
constexpr int64_t kMostScratch = 7 << 19;   // of a thread, with half a MiB to spare for the small arrays

Plan plan_direct(const Shape& s, Share share, TileSize size) {
  Plan plan;
  plan.algorithm = Algorithm::kDirect;
  plan.share = share;
  plan.size = size;
  const int64_t bytes = compute_bytes(s.dtype);
  plan.block = std::min(round_up(s.mg, s.lanes), s.machine.max_vectors * s.lanes);
  plan.blocks = ceil_div(s.mg, plan.block);
  plan.class_chunk = std::min(s.last_classes(), kMaxClassChunk);

  plan.packed_bytes = s.problem.group * plan.blocks * plan.block * s.cg * weight_bytes(s) * product(s.problem.kernel);
  // Heavy weights are fetched once for all tasks together: those share out the channels, not the pixels.
  const bool heavy = is_heavy(plan.packed_bytes, s.machine);
  const int64_t channel_tasks = heavy || share == Share::kChannels ? plan.blocks : 1;

  // A tile's window stays in half of L2, its results (one block of channels) in a quarter.
  const int64_t pitch = round_up(s.cg, s.lanes);
  const auto window = [&](const Dims& t) { return s.window_positions(t) * pitch * bytes; };
  const auto results = [&](const Dims& t) { return product(t) * plan.class_chunk * plan.block * bytes; };
  const int64_t tasks_wanted = target_tasks(s.machine, share);
  const int64_t base = std::max<int64_t>(1, s.problem.group);
  const int64_t domain = s.domain();
  // Pixels a tile should keep to make fetching the weights worth it, while other ways to split remain.
  const int64_t grain = 48, least = scaled(grain, size), l2 = scaled(s.machine.l2_bytes, size);
  cut(plan, s, Dims(s.axes.size(), 1), 16, [&](const Dims& t) {
    const int64_t n = product(t);
    const bool enough_tasks =
        base * channel_tasks * ceil_div(domain, n) >= tasks_wanted || n <= 2 * std::min(least, grain);
    return n == 1 || (n <= scaled(256, size) && enough_tasks && (n <= least || window(t) <= l2 / 2) &&
                      results(t) <= std::max<int64_t>(l2 / 4, 64 * 1024));
  });

  int64_t class_taps = 1;
  for (const auto& a : s.axes) {
    size_t most = 1;
    for (const auto& c : a.classes) most = std::max(most, c.taps.size());
    class_taps *= static_cast<int64_t>(most);
  }
  plan.channel_chunk = channel_chunk(s.cg, class_taps * plan.block * bytes, s.machine);

  split_blocks(plan, s, share);
  const double vectors = channel_vectors(s), outputs = s.outputs();
  plan.work.multiply_adds = vectors * met_pairs(s) * s.cg;
  plan.work.sums = plan.work.stores = vectors * outputs;
  for_sizes(plan, s, Dims(s.axes.size(), 1), [&](double n, const Dims& extent) {
    add_gemms(s, s.mg, plan.block, n, product(extent), static_cast<double>(product(s.problem.kernel) * s.cg),
              &plan.work);
  });
  plan.work.copies = static_cast<double>(tile_count(plan)) * s.window_positions(plan.tile) *
                     ceil_div(plan.blocks, plan.blocks_per_task) * pitch / s.lanes;
  plan.work.weight_bytes = fetched_bytes(plan);
  plan.work.tile_bytes = static_cast<double>(window(plan.tile) + results(plan.tile));
  plan.macs = channel_pairs(s) * tap_pairs(s);
  return plan;
}

// All sub-kernels as lanes of one product.  False unless all have the same taps: a weight of zero for one that is
// missing would make NaN of an input that the sub-kernel does not meet.
bool plan_stacked(const Shape& s, Share share, TileSize size, Plan* out) {
  if (!have_equal_taps(s.axes)) return false;
  Plan plan;
  plan.algorithm = Algorithm::kStacked;
  plan.share = share;
  plan.size = size;
  plan.aligned = s.aligned;
  const int64_t bytes = compute_bytes(s.dtype), classes = s.last_classes();
  double ntaps = 1;
  for (const auto& a : s.axes) ntaps *= static_cast<double>(a.offsets.size());
  const int64_t taps = static_cast<int64_t>(ntaps), rows = s.mg * s.classes();
  const int64_t step = s.machine.max_vectors * s.lanes;
  plan.block = stacked_block(round_up(rows, s.lanes), classes, s.lanes, step);
  plan.blocks = ceil_div(rows, plan.block);
  plan.class_chunk = 1;
  plan.packed_bytes = s.problem.group * round_up(rows, s.lanes) * s.cg * taps * weight_bytes(s);
  const bool heavy = is_heavy(plan.packed_bytes, s.machine);
  const int64_t channel_tasks = heavy || share == Share::kChannels ? plan.blocks : 1;

  // As for direct plans.
  const int64_t pitch = round_up(s.cg, s.lanes);
  const auto window = [&](const Dims& t) { return s.window_positions(t) * pitch * bytes; };
  const auto results = [&](const Dims& t) { return product(t) * plan.block * bytes; };
  const int64_t tasks_wanted = target_tasks(s.machine, share);
  const int64_t base = std::max<int64_t>(1, s.problem.group);
  const int64_t domain = s.domain();
  const int64_t grain = 48, least = scaled(heavy ? 128 : grain, size), l2 = scaled(s.machine.l2_bytes, size);
  cut(plan, s, Dims(s.axes.size(), 1), 16, [&](const Dims& t) {
    const int64_t n = product(t);
    const bool enough_tasks =
        base * channel_tasks * ceil_div(domain, n) >= tasks_wanted || n <= 2 * std::min(least, grain);
    return n == 1 || (n <= scaled(256, size) && enough_tasks && (n <= least || window(t) <= l2 / 2) &&
                      results(t) <= std::max<int64_t>(l2 / 4, 64 * 1024) && window(t) + results(t) <= kMostScratch);
  });
  plan.channel_chunk = channel_chunk(s.cg, taps * std::min(step, plan.block) * bytes, s.machine);

  split_blocks(plan, s, share);
  const double vectors = static_cast<double>(ceil_div(rows, s.lanes)), positions = static_cast<double>(domain);
  plan.work.multiply_adds = vectors * met_pairs(s) / static_cast<double>(s.classes()) * s.cg;
  plan.work.sums = vectors * positions;
  plan.work.stores = vectors * positions * (classes < 2 * s.lanes ? 2 : 1);
  for_sizes(plan, s, Dims(s.axes.size(), 1), [&](double n, const Dims& extent) {
    add_gemms(s, rows, std::min(step, plan.block), n, product(extent), ntaps * s.cg, &plan.work);
  });
  plan.work.copies = static_cast<double>(tile_count(plan)) * s.window_positions(plan.tile) *
                     ceil_div(plan.blocks, plan.blocks_per_task) * pitch / s.lanes;
  plan.work.weight_bytes = fetched_bytes(plan);
  plan.work.tile_bytes = static_cast<double>(window(plan.tile) + results(plan.tile));
  plan.macs = channel_pairs(s) * s.classes() * positions * ntaps;
  *out = std::move(plan);
  return true;
}

Plan plan_narrow(const Shape& s, TileSize size) {
  Plan plan;
  plan.algorithm = Algorithm::kNarrow;
  plan.size = size;
  plan.aligned = s.aligned;
  const int64_t bytes = compute_bytes(s.dtype);
  // As many channels as give a row kernel its fill of rows: it takes those of all sub-kernels if all read the same,
  // otherwise those of one.
  bool alike = true;
  for (const auto& a : s.axes)
    for (const auto& c : a.classes) alike = alike && c.taps.size() == a.offsets.size();
  const int64_t rows = alike ? std::max<int64_t>(1, s.classes()) : 1;
  plan.blocks = ceil_div(s.mg, std::clamp<int64_t>(s.machine.max_rows / rows, 1, s.mg));
  plan.block = ceil_div(s.mg, plan.blocks);
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
    return n == 1 || (enough_tasks && need(t) <= scaled(s.machine.l2_bytes, size) / 2);
  });
  split_blocks(plan, s);

  const double outputs = s.outputs();
  double taps = 1;
  for (const auto& a : s.axes) {
    double n = 0;
    for (const auto& c : a.classes) n += static_cast<double>(c.taps.size());
    taps *= n;
  }
  const RowLayout rows_of_tile(s.axes, plan.tile, s.classes() * plan.block, plan.blocks_per_task, s.cg, s.lanes, bytes,
                               storage_bytes(s.dtype) != bytes);
  const double channels = static_cast<double>(tile_count(plan) * s.cg);
  const double vectors = channels * static_cast<double>(rows_of_tile.vectors);
  plan.work.multiply_adds = vectors * taps * static_cast<double>(s.mg);
  if (!rows_of_tile.in_place)
    plan.work.copies = channels * static_cast<double>(ceil_div(s.window_positions(plan.tile), s.lanes) *
                                                      ceil_div(plan.blocks, plan.blocks_per_task));
  plan.work.stores = outputs * s.mg / s.lanes;
  double offsets = 1;
  for (const auto& a : s.axes) offsets *= static_cast<double>(a.offsets.size());
  // The sub-kernels of a block of one channel go together in most cases, whatever they read.
  const double chunks = static_cast<double>(ceil_div(plan.block * s.classes(), s.machine.max_rows));
  plan.work.loads = vectors * plan.blocks * (alike || plan.block == 1 ? offsets * chunks : taps);
  plan.macs = channel_pairs(s) * tap_pairs(s);
  plan.packed_bytes = s.problem.group * s.mg * s.cg * bytes * product(s.problem.kernel);
  plan.work.weight_bytes = fetched_bytes(plan);
  plan.work.tile_bytes = static_cast<double>(need(plan.tile));
  return plan;
}

// Winograd on the axes given, which all have the form; the others keep their taps.  False if a tile or the weights take
// too much memory.
bool plan_winograd(const Shape& s, const std::vector<Transform>& transform, Share share, TileSize size, Plan* out) {
  Plan plan;
  plan.algorithm = Algorithm::kWinograd;
  plan.share = share;
  plan.size = size;
  plan.aligned = s.aligned;
  plan.transform = transform;
  const int64_t bytes = compute_bytes(s.dtype);
  const size_t d = s.axes.size();
  std::vector<WinogradAxis> axes;
  Dims units;
  // Over all sub-kernels of one Winograd tile: GEMMs, and products summed in them.
  double gemms = 1, products = 1, all_tiles = 1, unit_tiles = 1;
  // Points of the transformed input, of all sub-kernels and, as they are held, of those of equal leading classes.
  int64_t all_points = 1, points = 1, class_points = 1;
  for (size_t i = 0; i < d; ++i) {
    WinogradAxis axis;
    winograd_axis(s.axes[i], transform[i], &axis);
    units.push_back(axis.unit());
    unit_tiles *= static_cast<double>(axis.spacing);
    all_points *= axis.points;
    points *= i + 1 < d ? axis.most_points() : axis.points;
    double axis_gemms = 0, axis_products = 0;
    for (int k : axis.kind_of_class) {
      axis_gemms += axis.kinds[k].alpha;
      axis_products += axis.plain ? axis.kinds[k].taps : axis.kinds[k].alpha * static_cast<double>(axis.groups);
    }
    gemms *= axis_gemms;
    products *= axis_products;
    class_points *= axis.most_points();
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
  plan.packed_bytes = static_cast<int64_t>(
      static_cast<double>(s.problem.group * round_up(s.mg, s.lanes) * s.cg * weight_bytes(s)) * products);
  if (plan.packed_bytes > kMostPacked) return false;
  // The transformed input of a tile stays near (L2 and a share of L3), its products in half of L2; the
  // weights want a few dozen Winograd tiles to each fetch, heavy ones more, and no second task to fetch
  // them again.
  const int64_t grain = 24, least = scaled(grain, size), l2 = scaled(s.machine.l2_bytes, size);
  const bool heavy = is_heavy(plan.packed_bytes, s.machine);
  const int64_t channel_tasks = heavy || share == Share::kChannels ? plan.blocks : 1;
  const int64_t most_transformed = heavy ? int64_t{5} << 19 : 2 * l2;
  const auto results = [&](const Dims& t) {
    return s.last_classes() * class_points * product(t) * unit_tiles * plan.block * bytes;
  };
  const auto input = [&](const Dims& t) { return transformed(t) * pitch * bytes; };
  const auto scratch = [&](const Dims& t) { return input(t) + window_positions(t) * pitch * bytes + 3 * results(t); };
  cut(plan, s, units, 12, [&](const Dims& t) {
    const double n = product(t) * unit_tiles;
    const bool enough_tasks =
        base * channel_tasks * std::ceil(all_tiles / n) >= tasks_wanted || n <= std::min(least, grain);
    return n == 1 || (n <= scaled(96, size) && enough_tasks && input(t) <= most_transformed && results(t) <= l2 / 2 &&
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
  for_sizes(plan, s, units, [&](double n, const Dims& extent) {
    add_gemms(s, s.mg, plan.block, n, product(extent) * static_cast<int64_t>(unit_tiles), products * s.cg, &plan.work);
  });
  plan.work.copies = static_cast<double>(tile_count(plan)) * transformed(tile_units) * all_points / points * pitch /
                     s.lanes * ceil_div(plan.blocks, plan.blocks_per_task);
  plan.work.weight_bytes = fetched_bytes(plan);
  plan.work.tile_bytes = input(tile_units) + results(tile_units);
  plan.macs = channel_pairs(s) * products * tiles;
  *out = std::move(plan);
  return true;
}

// Products along the axis over all classes and tiles; none if it has no such form.
int64_t axis_products(const AxisGeometry& axis, Transform transform) {
  WinogradAxis w;
  if (!winograd_axis(axis, transform, &w)) return 0;
  int64_t alphas = 0;
  for (int kind : w.kind_of_class) alphas += w.kinds[kind].alpha;
  return alphas * w.groups * w.tiles(axis.domain);
}

// With axes numbered by bits.
std::vector<Transform> transform_of(size_t axes, unsigned small, unsigned large) {
  std::vector<Transform> transform(axes, Transform::kNone);
  for (size_t i = 0; i < axes; ++i)
    if ((small | large) >> i & 1) transform[i] = large >> i & 1 ? Transform::kLarge : Transform::kSmall;
  return transform;
}

struct WinogradChoice {
  const Shape* shape;
  std::vector<Transform> transform;
};

// Each choice of aligned axes in small tiles, and in large ones where those save products; then large tiles of axes
// that are not aligned, where that saves more: the tiles of each class then begin at its own first output, so that
// fewer are cut short, but each has its own transformed input.
std::vector<WinogradChoice> winograd_choices(const Shape& aligned, const Shape& apart) {
  std::vector<WinogradChoice> choices;
  const Problem& p = aligned.problem;
  if (p.weights == WeightStorage::kInt8) return choices;  // sums of weights need more bits
  const size_t d = aligned.axes.size();
  unsigned possible = 0, large = 0, large_apart = 0;
  for (size_t i = 0; i < d; ++i) {
    const int64_t small = axis_products(aligned.axes[i], Transform::kSmall);
    const int64_t together = axis_products(aligned.axes[i], Transform::kLarge);
    const int64_t alone = axis_products(apart.axes[i], Transform::kLarge);
    possible |= unsigned{small > 0} << i;
    large |= unsigned{together > 0 && together < small} << i;
    large_apart |= unsigned{alone > 0 && alone < small && alone < together} << i;
  }
  // To pack half as many weights again in every run takes more than large tiles save; and what weights of fewer bits
  // lose by rounding would be doubled.
  if (!p.constant_weights || p.weights != WeightStorage::kCompute) large = large_apart = 0;
  // On three axes the transforms of large tiles take about what their products save.
  const auto at_most_two = [](unsigned axes) {
    const unsigned without_one = axes & (axes - 1);
    return (without_one & (without_one - 1)) == 0;
  };
  for (unsigned axes = 1; axes < 1u << d; ++axes) {
    if (axes & ~possible) continue;
    choices.push_back({&aligned, transform_of(d, axes, 0)});
    if (axes & large && at_most_two(axes)) choices.push_back({&aligned, transform_of(d, axes & ~large, axes & large)});
  }
  for (unsigned axes = 1; axes < 1u << d; ++axes)
    if (!(axes & ~large_apart) && at_most_two(axes)) choices.push_back({&apart, transform_of(d, 0, axes)});
  return choices;
}

// Whether one of them cuts the work into the same tasks, done in the same way.
bool has_equal(const std::vector<Plan>& plans, const Plan& plan) {
  return std::any_of(plans.begin(), plans.end(), [&](const Plan& p) {
    return p.algorithm == plan.algorithm && p.aligned == plan.aligned && p.transform == plan.transform &&
           p.tile == plan.tile && p.blocks_per_task == plan.blocks_per_task;
  });
}

}  // namespace

std::vector<Plan> candidates(const Problem& problem, DType dtype, const Machine& machine) {
  std::vector<Plan> plans;
  std::vector<Share> shares{Share::kTiles};
  if (machine.threads > 1) shares.push_back(Share::kChannels);
  // What comes to the same is one candidate, and tiles of another size may not leave threads without work.
  const auto add = [&](auto make) {
    int64_t tasks = 0;
    for (TileSize size : {TileSize::kUsual, TileSize::kSmall, TileSize::kLarge}) {
      Plan plan;
      if (!make(size, &plan)) continue;
      if (size == TileSize::kUsual) tasks = std::min<int64_t>(plan.tasks, machine.threads);
      if (plan.tasks >= tasks && !has_equal(plans, plan)) plans.push_back(plan);
    }
  };
  const Shape direct(problem, machine, dtype, false);
  for (Share share : shares)
    add([&](TileSize size, Plan* plan) {
      *plan = plan_direct(direct, share, size);
      return true;
    });
  const Shape aligned(problem, machine, dtype, true);
  for (Share share : shares) add([&](TileSize size, Plan* plan) { return plan_stacked(aligned, share, size, plan); });
  // Few channels do not fill a row kernel; with classes that read the same they do, at one or two extra columns a row.
  const Shape narrow(problem, machine, dtype, problem.group_out() <= 2);
  add([&](TileSize size, Plan* plan) {
    *plan = plan_narrow(narrow, size);
    return true;
  });
  for (const WinogradChoice& choice : winograd_choices(aligned, direct))
    for (Share share : shares)
      add([&](TileSize size, Plan* plan) { return plan_winograd(*choice.shape, choice.transform, share, size, plan); });
  for (Plan& plan : plans) {
    plan_weights(plan, direct);
    plan.work.imbalance = imbalance(plan, problem, machine.threads);
    const double group = static_cast<double>(problem.group);
    Work& w = plan.work;
    for (double* n : {&w.multiply_adds, &w.stalls, &w.loads, &w.sums, &w.copies, &w.stores}) *n *= group;
    w.tasks = static_cast<double>(plan.tasks);
  }
  return plans;
}

std::vector<Plan> session_candidates(const Problem& problem, DType dtype, const Machine& machine) {
  std::vector<Plan> plans = candidates(problem, dtype, machine);
  const size_t largest = plans.size();
  // As many tasks as those for all threads have, or one for each.
  const auto enough = [&](const Plan& plan) {
    int64_t least = machine.threads;
    for (size_t i = 0; i < largest; ++i)
      if (plans[i].algorithm == plan.algorithm && plans[i].aligned == plan.aligned &&
          plans[i].transform == plan.transform)
        least = std::min(least, plans[i].tasks);
    return plan.tasks >= least;
  };
  Machine session = machine;
  for (int threads : session_sizes(machine.threads)) {
    if (threads == machine.threads || threads == 1) continue;
    session.threads = threads;
    for (Plan& plan : candidates(problem, dtype, session)) {
      if (enough(plan) && !has_equal(plans, plan)) plans.push_back(std::move(plan));
    }
  }
  return plans;
}

double imbalance(const Plan& plan, const Problem& problem, int threads) {
  constexpr int64_t kMost = 512;
  if (threads == 1 || plan.tasks <= 0) return 1;
  std::vector<AxisGeometry> axes = segregate(problem, plan.aligned);
  axes.insert(axes.begin(), batch_axis(problem));
  const int64_t chunks = std::max<int64_t>(1, ceil_div(plan.blocks, plan.blocks_per_task));
  const auto domain = [&](size_t axis) { return std::max<int64_t>(1, axes[axis].domain); };
  if (plan.tasks > kMost) {
    const double largest = static_cast<double>(product(plan.tile) * plan.blocks_per_task);
    double all = static_cast<double>(plan.blocks * std::max<int64_t>(1, problem.group));
    for (size_t i = 0; i < axes.size(); ++i) all *= static_cast<double>(domain(i));
    return std::max(1.0, 1 + largest * static_cast<double>(threads - 1) / all);
  }
  bool equal = plan.blocks % plan.blocks_per_task == 0;
  for (size_t i = 0; i < axes.size(); ++i) equal = equal && domain(i) % plan.tile[i] == 0;
  if (equal) return static_cast<double>(ceil_div(plan.tasks, threads) * threads) / static_cast<double>(plan.tasks);
  std::priority_queue<double, std::vector<double>, std::greater<>> busy_until;
  for (int t = 0; t < threads; ++t) busy_until.push(0);
  double total = 0, longest = 0;
  for (int64_t task = 0; task < plan.tasks; ++task) {
    const int64_t first = task % chunks * plan.blocks_per_task;
    double work = static_cast<double>(std::min(plan.blocks_per_task, plan.blocks - first));
    int64_t tile = task / chunks;
    for (size_t i = axes.size(); i-- > 0; tile /= plan.tiles[i])
      work *= static_cast<double>(std::min(plan.tile[i], domain(i) - tile % plan.tiles[i] * plan.tile[i]));
    const double end = busy_until.top() + work;
    busy_until.pop();
    busy_until.push(end);
    total += work;
    longest = std::max(longest, end);
  }
  return total > 0 ? longest * static_cast<double>(threads) / total : 1;
}

}  // namespace ort_tconv
