#include "cuda/plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <tuple>

#include "core/geometry.h"
#include "core/integers.h"
#include "core/status.h"

namespace ort_tconv::cuda {
namespace {

constexpr int kAxes = 3;
constexpr int64_t kIndexLimit = std::numeric_limits<int32_t>::max();

int ceil_log2(int64_t v) {
  int log2 = 0;
  while ((int64_t{1} << log2) < v) ++log2;
  return log2;
}

int index(int64_t v, const char* what) {
  require(v <= kIndexLimit, what, " is ", v, ": the CUDA kernels take at most ", kIndexLimit);
  return static_cast<int>(v);
}

// The same problem with at least three spatial axes, the real ones last.
Problem with_three_axes(Problem p) {
  const auto lead = [&](Dims& v, int64_t value) {
    if (v.size() < kAxes) v.insert(v.begin(), kAxes - v.size(), value);
  };
  lead(p.in, 1), lead(p.out, 1), lead(p.kernel, 1), lead(p.stride, 1), lead(p.dilation, 1);
  lead(p.pad_begin, 0), lead(p.pad_end, 0);
  return p;
}

// ---- geometry of the implicit matrix product -------------------------------------------------------

struct AxisPlan {
  Axis axis{};
  int64_t domain = 0;
};

AxisPlan plan_axis(const Problem& p, int i, bool aligned) {
  const AxisGeometry g = segregate(p, i, aligned);
  AxisPlan out;
  Axis& a = out.axis;
  a.in = static_cast<int>(p.in[i]);
  a.out = static_cast<int>(p.out[i]);
  a.stride = static_cast<int>(p.stride[i]);
  a.pad = static_cast<int>(p.pad_begin[i]);
  a.dilation = static_cast<int>(p.dilation[i]);
  a.kernel = static_cast<int>(p.kernel[i]);
  a.classes = static_cast<int>(g.classes.size());
  a.origin = static_cast<int>(g.origin);
  a.first_offset = g.offsets.empty() ? 0 : static_cast<int>(g.offsets.front());
  a.offsets = g.offsets.empty() ? 1 : static_cast<int>(g.offsets.back() - g.offsets.front() + 1);
  a.classes_div = FastDiv(a.classes);
  a.offsets_div = FastDiv(a.offsets);
  out.domain = g.domain;
  return out;
}

struct GemmGeometry {
  AxisPlan axes[kAxes];
  int64_t classes = 1, shifts = 1, taps = 1;
  bool possible = true;
};

// Coordinates that leave 32 bits, or too many shifts: not for this kernel.
GemmGeometry gemm_geometry(const Problem& p, bool aligned) {
  GemmGeometry g;
  for (int i = 0; i < kAxes; ++i) {
    const int64_t reach = p.stride[i] * (p.in[i] + 1) + p.kernel[i] * p.dilation[i] + p.pad_begin[i] + p.out[i];
    if (reach > kIndexLimit / 2) return g.possible = false, g;
    g.axes[i] = plan_axis(p, i, aligned);
    g.classes *= g.axes[i].axis.classes;
    g.shifts *= g.axes[i].axis.offsets;
    g.taps *= p.kernel[i];
    if (g.shifts > kMaxShifts) g.possible = false;
  }
  if (g.taps * ceil_div(p.group_out(), kRowTile) > kIndexLimit / 2 ||
      g.classes * (p.group_out() + kRowTile) > kIndexLimit / 2)
    g.possible = false;
  return g;
}

// ---- cost: cycles of a multiprocessor, as orders of magnitude -------------------------------------

// One 16x8 tile, one chunk of channels: the longer of multiplying, and of bringing the factors from shared
// memory into registers (16 bytes a thread take a warp 4 cycles).
double tile_cycles(const TileShape& tile, DType dtype, bool tensor_cores, int capability) {
  const double m = tile.warp_row_tiles, n = tile.warp_column_tiles;
  const double loads = tensor_cores ? 2 * m + n : 4 * (2 * m + 2 * n);
  const double products = 16.0 * 8 * kChunkBytes / storage_bytes(dtype);
  // Double precision runs at half the rate of float on data-centre devices, elsewhere at 1/64 of it.
  const bool data_centre = capability == 80 || capability == 90 || capability == 100;
  const double rate = tensor_cores               ? (dtype == DType::kFloat32 ? 512 : 1024)
                      : dtype == DType::kFloat64 ? (data_centre ? 64 : 2)
                                                 : 128;
  constexpr double efficiency = 0.8;
  return std::max(products / rate, 4 * loads / (m * n)) / efficiency;
}

constexpr double kBarrier = 60;              // a step's synchronisation and address arithmetic
constexpr double kWeightBytesPerCycle = 40;  // of a multiprocessor, from the second-level cache
constexpr double kWindowPiece = 0.75;        // 16 bytes gathered from as many channels
constexpr double kStartup = 2500;            // of a block: step list, first loads, epilogue
constexpr double kLaunch = 4000;             // another kernel for split-K's sums
constexpr double kStoreBytesPerCycle = 12;   // of a multiprocessor, to and from memory

struct Candidate {
  double cost = std::numeric_limits<double>::infinity();
  int tile = -1, splits = 1;
  int log2[1 + kAxes] = {};  // images, then axes
};

bool forced_otherwise(const Options& options, const TileShape& tile) {
  return !options.tile.empty() && options.tile != tile.name;
}

// Best tile of the domain for one tile shape; explores every division of its columns over the axes.
void explore(const Problem& p, const GemmGeometry& g, DType dtype, const Device& device, const Options& options,
             bool tensor_cores, int64_t row_tiles, double present, int tile_index, Candidate& best) {
  const TileShape& tile = kTiles[tile_index];
  const int columns_log2 = ceil_log2(tile.columns), accumulator = is_double(dtype) ? 8 : 4;
  const int64_t chunks = ceil_div(p.group_in() * storage_bytes(dtype), kChunkBytes);
  const int64_t row_blocks = ceil_div(row_tiles, tile.row_tiles) * p.group;
  const double rate = tile_cycles(tile, dtype, tensor_cores, device.capability) / 8;  // of a column
  const int64_t sizes[1 + kAxes] = {p.batch, g.axes[0].domain, g.axes[1].domain, g.axes[2].domain};
  int most[1 + kAxes];
  for (int i = 0; i <= kAxes; ++i) most[i] = std::min(columns_log2, ceil_log2(std::max<int64_t>(sizes[i], 1)));
  // What is left over when every axis is covered goes to the innermost.
  const int covered = most[0] + most[1] + most[2] + most[3];
  if (covered < columns_log2) most[3] += columns_log2 - covered;

  int log2[1 + kAxes];
  for (log2[0] = 0; log2[0] <= most[0]; ++log2[0])
    for (log2[1] = 0; log2[1] <= most[1]; ++log2[1])
      for (log2[2] = 0; log2[2] <= most[2]; ++log2[2]) {
        log2[3] = columns_log2 - log2[0] - log2[1] - log2[2];
        if (log2[3] < 0 || log2[3] > most[3]) continue;
        int64_t window = int64_t{1} << log2[0], blocks = row_blocks;
        for (int i = 0; i <= kAxes; ++i) {
          blocks *= ceil_div(sizes[i], int64_t{1} << log2[i]);
          if (i > 0) window *= (int64_t{1} << log2[i]) + g.axes[i - 1].axis.offsets - 1;
        }
        if (window > 1 << 16) continue;
        if ((p.channels * product(p.in)) << log2[0] > kIndexLimit) continue;
        const GemmShared shared(tile.row_tiles, tile.columns, accumulator, static_cast<int>(g.shifts),
                                static_cast<int>(window));
        if (shared.total > device.shared_bytes) continue;
        const double occupancy = std::max(
            1, std::min<int>(tile.blocks_per_multiprocessor, (device.shared_bytes + 1024) / (shared.total + 1024)));
        // Row tiles a block multiplies at a chunk, on average.
        const double tiles = present * std::min<double>(tile.row_tiles, row_tiles);
        const double chunk = tiles * std::max(rate * tile.columns, kRowTileBytes / kWeightBytesPerCycle) +
                             g.shifts * kBarrier / occupancy + 4 * window * kWindowPiece;
        const double y_bytes = static_cast<double>(p.batch) * p.out_channels * product(p.out);
        for (int64_t splits = 1; splits <= std::max<int64_t>(1, chunks); splits *= 2) {
          if (options.splits > 0) splits = std::min<int64_t>(options.splits, std::max<int64_t>(1, chunks));
          const double slots = device.multiprocessors * occupancy;
          const double waves = std::ceil(static_cast<double>(blocks * splits) / slots);
          // Blocks of one multiprocessor share its units, a lone block cannot use all of them.
          const double alone =
              std::min<double>(occupancy, std::ceil(static_cast<double>(blocks * splits) / device.multiprocessors));
          const double block = kStartup + ceil_div(chunks, splits) * chunk * std::max(alone, 1.6);
          double cost = waves * block + y_bytes * storage_bytes(dtype) / device.multiprocessors / kStoreBytesPerCycle;
          if (splits > 1)
            cost += kLaunch + 2 * y_bytes * splits * accumulator / device.multiprocessors / kStoreBytesPerCycle;
          if (cost < best.cost) {
            best.cost = cost;
            best.tile = tile_index;
            best.splits = static_cast<int>(splits);
            std::copy(log2, log2 + 1 + kAxes, best.log2);
          }
          if (options.splits > 0 || blocks >= 4 * slots) break;
        }
      }
}

bool make_gemm(LaunchPlan& plan, const Problem& p, const Device& device, const Options& options) {
  if (p.rank() > kAxes) return false;
  GemmGeometry g = gemm_geometry(p, /*aligned=*/true);
  if (!g.possible) return false;
  const int64_t mg = p.group_out(), cg = p.group_in();
  const int64_t channel_tiles = ceil_div(mg, kRowTile), folded_tiles = ceil_div(mg * g.classes, kRowTile);
  // Rows of one class skip the shifts at which they have no tap; rows of all classes waste none of 16.
  const bool folded = folded_tiles * g.shifts < channel_tiles * g.taps;
  const int64_t row_tiles = folded ? folded_tiles : channel_tiles * g.classes;
  const double present = folded ? g.shifts : static_cast<double>(g.taps) / g.classes;

  const auto best_tile = [&](const GemmGeometry& geometry) {
    Candidate best;
    for (int i = 0; i < static_cast<int>(std::size(kTiles)); ++i) {
      if (forced_otherwise(options, kTiles[i])) continue;
      if (is_double(plan.dtype) && kTiles[i].row_tiles * kTiles[i].columns > 512) continue;  // too many registers
      explore(p, geometry, plan.dtype, device, options, plan.tensor_cores, row_tiles, present, i, best);
    }
    return best;
  };
  Candidate best = best_tile(g);
  // Aligned classes read the fewest shifts; classes as they are have no position too many, which decides for
  // small images.  Folded rows keep to one of the two, since packed weights depend on it.
  if (!folded) {
    const GemmGeometry exact = gemm_geometry(p, /*aligned=*/false);
    const Candidate other = exact.possible ? best_tile(exact) : Candidate();
    if (other.cost < best.cost) best = other, g = exact;
  }
  if (best.tile < 0) return false;

  plan.kernel = Kernel::kGemm;
  plan.tile = best.tile;
  plan.cost = best.cost;
  const TileShape& tile = kTiles[best.tile];
  GemmParams& k = plan.gemm;
  int64_t window = 1, blocks = 1;
  for (int i = kAxes - 1; i >= 0; --i) {
    Axis& a = k.axis[i] = g.axes[i].axis;
    a.tile_log2 = best.log2[1 + i];
    a.window = (1 << a.tile_log2) + a.offsets - 1;
    a.window_div = FastDiv(a.window);
    const int64_t tiles = ceil_div(g.axes[i].domain, int64_t{1} << a.tile_log2);
    a.tiles = FastDiv(tiles);
    blocks *= tiles;
    window *= a.window;
  }
  k.batch = static_cast<int>(p.batch);
  k.channels = static_cast<int>(p.channels);
  k.out_channels = static_cast<int>(p.out_channels);
  k.group_in = static_cast<int>(cg);
  k.group_out = static_cast<int>(mg);
  k.in_plane = product(p.in);
  k.out_plane = product(p.out);
  k.batch_tile_log2 = best.log2[0];
  k.image_div = FastDiv(window);
  window <<= k.batch_tile_log2;
  blocks *= ceil_div(p.batch, int64_t{1} << k.batch_tile_log2);
  k.window = static_cast<int>(window);
  k.window_div = FastDiv(window);
  k.rows = {folded, static_cast<int>(g.classes), static_cast<int>(mg), FastDiv(g.classes)};
  k.row_tiles = static_cast<int>(row_tiles);
  const int64_t row_blocks = ceil_div(row_tiles, tile.row_tiles);
  k.row_blocks = FastDiv(row_blocks);
  k.taps = static_cast<int>(g.taps);
  k.shifts = static_cast<int>(g.shifts);
  k.packed_tiles = static_cast<int>(folded ? folded_tiles * g.shifts : channel_tiles * g.taps);
  k.chunks = static_cast<int>(ceil_div(cg * storage_bytes(plan.dtype), kChunkBytes));
  k.chunks_per_split = static_cast<int>(ceil_div(k.chunks, best.splits));
  plan.splits = std::max(1, static_cast<int>(ceil_div(k.chunks, std::max(1, k.chunks_per_split))));
  const int element = plan.splits > 1 ? compute_bytes(plan.dtype) : storage_bytes(plan.dtype), width = 16 / element;
  k.line_vectors = FastDiv(ceil_div((int64_t{k.axis[2].classes} << k.axis[2].tile_log2) + width - 1, width));

  const int64_t grid_y = row_blocks * p.group;
  if (blocks > kIndexLimit || grid_y > 65535 || plan.splits > 65535) return false;
  plan.grid[0] = blocks, plan.grid[1] = grid_y, plan.grid[2] = plan.splits;
  plan.shared_bytes = GemmShared(tile.row_tiles, tile.columns, compute_bytes(plan.dtype), k.shifts, k.window).total;
  if (plan.splits > 1) {
    k.partial_stride = ceil_div(plan.y_count, 4) * 4;
    plan.workspace_bytes = plan.splits * k.partial_stride * compute_bytes(plan.dtype);
  }

  PackParams& pack = plan.pack;
  std::copy(std::begin(k.axis), std::end(k.axis), pack.axis);
  pack.rows = k.rows;
  pack.groups = static_cast<int>(p.group);
  pack.group_in = k.group_in, pack.group_out = k.group_out, pack.taps = k.taps, pack.chunks = k.chunks;
  pack.shifts = k.shifts, pack.tiles = k.packed_tiles;
  plan.packed_bytes = int64_t{pack.groups} * pack.chunks * pack.tiles * kRowTileBytes;
  return true;
}

// ---- the direct kernel -----------------------------------------------------------------------------

// x with a * x = 1 (mod m), for coprime a and m.
int64_t inverse(int64_t a, int64_t m) {
  int64_t r0 = m, r1 = a % m, t0 = 0, t1 = 1;
  while (r1 > 0) {
    const int64_t q = r0 / r1;
    std::tie(r0, r1) = std::make_pair(r1, r0 - q * r1);
    std::tie(t0, t1) = std::make_pair(t1, t0 - q * t1);
  }
  return ((t0 % m) + m) % m;
}

void make_direct(LaunchPlan& plan, const Problem& p, const Device& device) {
  plan.kernel = Kernel::kDirect;
  DirectParams& k = plan.direct;
  const int rank = p.rank() > kAxes ? kMaxSpatial : kAxes;
  for (int i = 0; i < rank; ++i) {
    DirectAxis& a = k.axis[i];
    const int j = i - (rank - p.rank());
    if (j < 0) {
      a = {1, 1, 1, 0, 1, 1, 1, 1, 0, FastDiv(1)};
      continue;
    }
    const int64_t s = p.stride[j], dil = p.dilation[j], gcd = std::gcd(s, dil);
    index(p.out[j] + p.pad_begin[j], "an output size with its padding");
    a.in = index(p.in[j], "an input size");
    a.out = index(p.out[j], "an output size");
    a.stride = index(s, "a stride");
    a.pad = static_cast<int>(p.pad_begin[j]);
    a.kernel = index(p.kernel[j], "a kernel size");
    a.dilation_step = index(dil / gcd, "a dilation");
    a.tap_step = static_cast<int>(s / gcd);
    a.gcd = index(gcd, "a stride");
    a.inverse = static_cast<int>(inverse(dil / gcd, a.tap_step));
    a.out_div = FastDiv(p.out[j]);
  }
  k.batch = static_cast<int>(p.batch);
  k.channels = static_cast<int>(p.channels);
  k.out_channels = static_cast<int>(p.out_channels);
  k.groups = static_cast<int>(p.group);
  k.group_in = static_cast<int>(p.group_in());
  k.group_out = static_cast<int>(p.group_out());
  k.in_plane = product(p.in);
  k.out_plane = index(product(p.out), "the number of outputs of a channel");
  k.taps = product(p.kernel);
  k.channel_blocks = static_cast<int>(ceil_div(k.group_out, k.group_out > 1 ? 4 : 1));
  const int64_t planes = p.batch * p.group * k.channel_blocks, spatial = ceil_div(k.out_plane, 256);
  // Enough blocks to fill the device a few times; beyond that a block takes several planes, and finds its
  // taps once for all of them.
  const int64_t wanted = ceil_div(int64_t{32} * device.multiprocessors, spatial);
  plan.grid[0] = spatial;
  plan.grid[1] = std::min({planes, wanted, int64_t{65535}});
  plan.grid[2] = 1;
  // A thread waits for each input in turn, unless the other threads of its multiprocessor keep it busy.
  const double blocks = static_cast<double>(plan.grid[0]) * plan.grid[1];
  const double resident = std::min(4.0, std::ceil(blocks / device.multiprocessors));
  const double waves = std::ceil(blocks / (4.0 * device.multiprocessors));
  double inputs = k.group_in;  // that an output meets
  for (int i = 0; i < p.rank(); ++i) inputs *= static_cast<double>(ceil_div(p.kernel[i], p.stride[i]));
  // Each input and each weight of a warp takes a cycle; a block has eight warps.
  const double loads = k.group_out > 1 ? 5 : 2, latency = 60, locate = 600;
  plan.cost = 2000 + waves * (locate + static_cast<double>(ceil_div(planes, plan.grid[1])) * inputs *
                                           std::max(latency, 8 * resident * loads));
}

}  // namespace

std::vector<int64_t> LaunchPlan::layout() const {
  if (kernel == Kernel::kDirect) return {};
  const PackParams& p = pack;
  std::vector<int64_t> v{
      static_cast<int64_t>(dtype), tensor_cores, p.groups, p.group_in, p.group_out, p.taps, p.rows.folded};
  if (p.rows.folded)
    for (const Axis& a : p.axis)
      v.insert(v.end(), {a.stride, a.dilation, a.kernel, a.classes, a.origin + a.pad, a.first_offset, a.offsets});
  return v;
}

std::string LaunchPlan::describe() const {
  if (kernel == Kernel::kDirect)
    return concat("direct, ", direct.channel_blocks, " blocks of output channels, grid ", grid[0], "x", grid[1]);
  const GemmParams& k = gemm;
  return concat(tensor_cores ? "tensor cores" : "CUDA cores", ", tile ", kTiles[tile].name, " of ",
                1 << k.batch_tile_log2, "x", 1 << k.axis[0].tile_log2, "x", 1 << k.axis[1].tile_log2, "x",
                1 << k.axis[2].tile_log2, ", ", k.rows.classes, " classes", k.rows.folded ? " folded" : "", ", ",
                k.shifts, " shifts, ", k.chunks, " chunks in ", splits, " splits, grid ", grid[0], "x", grid[1], "x",
                grid[2], ", ", shared_bytes, " bytes shared");
}

LaunchPlan make_launch_plan(const Problem& problem, DType dtype, const Device& device, const Options& options) {
  require(options.kernel.empty() || options.kernel == "gemm" || options.kernel == "direct", "kernel '", options.kernel,
          "': must be gemm or direct");
  const auto named = [&](const TileShape& t) { return options.tile == t.name; };
  require(options.tile.empty() || std::any_of(std::begin(kTiles), std::end(kTiles), named), "unknown tile '",
          options.tile, "'");
  LaunchPlan plan;
  plan.dtype = dtype;
  plan.y_count = element_count(problem.y_shape(), "output size");
  if (plan.y_count == 0) return plan;  // nothing to launch
  const Problem p = with_three_axes(spread_single_positions(problem));
  index(p.batch, "the batch");
  index(p.channels, "the number of channels");
  index(p.out_channels, "the number of output channels");
  for (int i = 0; i < p.rank(); ++i) index(p.in[i], "an input size");

  make_direct(plan, p, device);
  if (options.kernel == "direct") return plan;
  plan.tensor_cores = !is_double(dtype) && (dtype != DType::kFloat32 || options.allow_tf32) &&
                      device.capability >= (dtype == DType::kFloat16 ? 75 : 80);
  const LaunchPlan direct = plan;
  // Sixteen-bit types have tensor cores or the direct kernel.
  const bool has_gemm = plan.tensor_cores || dtype == DType::kFloat32 || is_double(dtype);
  const bool made = has_gemm && make_gemm(plan, p, device, options);
  require(made || options.kernel != "gemm", "kernel 'gemm' does not take this problem");
  return made && (options.kernel == "gemm" || plan.cost < direct.cost) ? plan : direct;
}

}  // namespace ort_tconv::cuda
