// Problem + machine -> Plan: which algorithm runs, how the output is cut into tiles and who works on
// what.  Pure and cheap (no allocation proportional to anything but the rank), so that tests and
// `inspect` can ask for the plan of a machine they do not run on.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "core/geometry.h"
#include "core/problem.h"
#include "core/winograd.h"

namespace ort_tconv {

enum class DType { kFloat32, kFloat64, kFloat16, kBFloat16 };
const char* name(DType dtype);
inline bool is_double(DType dtype) { return dtype == DType::kFloat64; }
int storage_bytes(DType dtype);
inline int compute_bytes(DType dtype) { return is_double(dtype) ? 8 : 4; }
inline int weight_bytes(WeightStorage storage, DType dtype) {
  return storage == WeightStorage::kCompute ? compute_bytes(dtype) : storage == WeightStorage::kInt8 ? 1 : 2;
}

// kDirect: lanes are output channels; one GEMM a residue class over a channels-last window.
// kStacked: as direct, but all sub-kernels, which have equal taps, in one GEMM, as lanes beside the channels.
// kNarrow: lanes are positions along a row; for few output channels, depthwise included.
// kWinograd: as direct, but each sub-kernel by minimal filtering on input tiles that all share.
enum class Algorithm { kDirect, kStacked, kNarrow, kWinograd };
constexpr Algorithm kAlgorithms[] = {Algorithm::kDirect, Algorithm::kStacked, Algorithm::kNarrow, Algorithm::kWinograd};
const char* name(Algorithm algorithm);

// How threads get their work: tiles first, a few for each thread to even out what they take; or channels
// first, which each fetch their own weights, but all transform the same input.
enum class Share { kTiles, kChannels };

// How much of the near caches a tile takes, beside what suits most problems.
enum class TileSize { kUsual, kSmall, kLarge };

// What a plan needs to know of the machine.
struct Machine {
  std::string isa;
  int vector_bytes = 16;
  int max_vectors = 2;  // vectors of output channels a gemm tile takes
  int max_pixels = 6;   // pixels it takes
  int max_rows = 4;     // rows of positions a row tile takes
  int threads = 1;
  // What one core can use: of the second level, and of the last one, if there is a third.  The last level's
  // contents that threads have in common can take as many shares as there are threads beside one cache.
  int64_t l2_bytes = 512 * 1024;
  int64_t l3_bytes = 2 * 1024 * 1024;
  int64_t l3_sharers = 1;
  int64_t common_bytes() const { return std::max(l2_bytes, l3_bytes * std::min<int64_t>(threads, l3_sharers)); }
};

// What a plan does, counted in vectors: its cost is made of these.
struct Work {
  double multiply_adds = 0;
  double stalls = 0;  // multiply-adds that the kernels' short blocks leave room for
  double loads = 0;   // of weights in matrix products; of the window in the narrow engine
  double sums = 0;    // started: first loads, last stores
  double copies = 0;  // into windows, transformed for Winograd, repeated by each task
  double stores = 0;  // of outputs
  double tasks = 0;
  double imbalance = 1;     // longest thread over the mean one
  double tile_bytes = 0;    // of a tile's window and results, which are read again and again
  double weight_bytes = 0;  // fetched: the packed weights once a tile
  double packs = 0;         // weights packed in every run, one by one
};

struct Plan {
  Algorithm algorithm = Algorithm::kDirect;
  Share share = Share::kTiles;
  TileSize size = TileSize::kUsual;
  bool aligned = false;              // residue classes shifted onto one input window (geometry.h)
  std::vector<Transform> transform;  // winograd: of the batch, then of the spatial axes
  Dims tile;                         // domain positions of a tile: batch, then the spatial axes
  Dims tiles;                        // tiles along each axis
  int64_t class_chunk = 0;           // residue classes of the last axis in one pass
  int64_t block = 0;                 // output channels (stacked: lanes) of a block: the unit of work along M
  int64_t blocks = 0;                // blocks of a group
  int64_t blocks_per_task = 0;
  int64_t channel_chunk = 0;  // input channels summed before the next weights are fetched
  int64_t tasks = 0;
  bool pack_in_task = false;  // weights that are not constant are packed by the task that uses them
  bool fetch = false;         // weights come from memory: those of a product are fetched during the last one
  double cost = 0;            // predicted cost: vector multiply-adds and their equivalents
  double macs = 0;            // multiply-adds in its sums, those with padding included, without unused lanes
  Work work;
  std::string reason;

  int64_t scratch_bytes = 0;  // a thread's
  int64_t packed_bytes = 0;   // of packed weights

  std::string kind() const;  // what the plan chose: algorithm, axes, way to share, size of tiles
  std::string describe() const;
};

// Threads of the sessions that a plan for so many is made for, most first: all, a quarter of them, and so on to one.
std::vector<int> session_sizes(int threads);

// One plan for sessions of any number of threads up to the machine's, since an operator is not told how many its
// session has, and so that all compute the same bits: the one of least cost.h's session_cost.
// `algorithm` is "" or "auto", or the name of the one to use (direct stands in where it has no plan for these
// sub-kernels; `reason` says so).  Throws Error if it is unknown.
Plan make_plan(const Problem& problem, DType dtype, const Machine& machine, const std::string& algorithm);

// Of a stacked plan, whose lanes are all sub-kernels of all output channels, ordered by [output channel][classes of the
// leading axes][class of the last axis].  Whether rows of an output channel are put together before they are stored,
// which parts of rows that are long by themselves do without:
bool joins_rows(int64_t last_classes, int64_t vector_lanes);
// Lanes of a block: the `step` that a product takes at a time, or a few times that where it then holds whole rows of
// short ones, at most `padded`, which are all.
int64_t stacked_block(int64_t padded, int64_t last_classes, int64_t vector_lanes, int64_t step);

// Input channels (8 bits: words of them) that are summed before the next weights are read, so that their weights, so
// many bytes for each, stay in about a quarter of L2 while the tile's pixels pass: as few and as equal chunks as that
// allows, since one of a few channels costs as much as a large one does beside its multiply-adds.
int64_t channel_chunk(int64_t channels, int64_t bytes, const Machine& machine);

// Input coordinates a tile needs along one axis, as a dense interval (tile plus halo) or, where the
// taps are far apart, as one interval a tap offset.  Both make "position of domain index q, tap offset
// delta" linear in q.
struct WindowAxis {
  int64_t tile = 0;
  int64_t extent = 0;  // positions in the window
  bool dense = true;
  std::vector<int64_t> offsets;  // distinct tap offsets
  // `beyond`: more positions at the end.
  WindowAxis(const AxisGeometry& axis, int64_t tile, int64_t beyond = 0);
  int64_t position(int64_t offset) const;  // of the tile's first domain index
  // Input coordinate, relative to the tile's first domain index, of window position i.
  int64_t coordinate(int64_t i) const { return dense ? i + offsets.front() : i % tile + offsets[i / tile]; }
};

}  // namespace ort_tconv
