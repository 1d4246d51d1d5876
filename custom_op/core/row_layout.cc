#include "core/row_layout.h"

#include <algorithm>

#include "core/integers.h"
#include "core/plan.h"

namespace ort_tconv {
namespace {

constexpr int64_t kStripBytes = 16 * 1024;  // of results, which are stored while they are in L1
constexpr int64_t kLine = 64;               // bytes of a cache line
constexpr int64_t kSets = 64, kWays = 8;    // of lines in a first-level cache

// Whether so many channels, so many bytes apart, push each other out of a first-level cache, which the lines at one
// position of all channels want at the same time.
bool collide(int64_t channels, int64_t bytes) {
  int64_t lines[kSets] = {};
  for (int64_t c = 0, last = -1; c < std::min(channels, kSets * kWays); ++c) {
    const int64_t line = c * bytes / kLine;
    if (line != last && ++lines[line % kSets] > kWays) return true;
    last = line;
  }
  return false;
}

}  // namespace

RowLayout::RowLayout(const std::vector<AxisGeometry>& axes, const Dims& tile, int64_t results_of_position,
                     int64_t blocks, int64_t channels, int64_t lanes, int64_t value_bytes, bool converted) {
  const size_t d = axes.size();
  const int64_t rows = tile[d - 2], width = tile[d - 1], row = WindowAxis(axes[d - 1], width).extent;
  strip = std::clamp<int64_t>(kStripBytes / value_bytes / std::max<int64_t>(1, results_of_position * width), 1, rows);
  // Rows run through the halo where that costs less than the last vector of each row.
  const auto in_one = [&](int64_t n) { return ceil_div((n - 1) * row + width, lanes); };
  flat = in_one(strip) <= strip * ceil_div(width, lanes);
  row_stride = flat ? row : round_up(width, lanes);
  results = round_up((strip - 1) * row_stride + width, lanes);
  const int64_t last = rows % strip;
  const int64_t planes = product(tile) / std::max<int64_t>(1, rows * width);
  vectors =
      planes * (flat ? rows / strip * in_one(strip) + (last > 0 ? in_one(last) : 0) : rows * ceil_div(width, lanes));

  int64_t window = 1, in_size = 1;  // positions
  in_place = !converted && tile[0] == 1;
  for (size_t i = 0; i < d; ++i) {
    window *= WindowAxis(axes[i], tile[i]).extent;
    if (i == 0) continue;
    in_size *= axes[i].in;
    in_place = in_place && axes[i].offsets == std::vector<int64_t>{0} && axes[i].domain == axes[i].in &&
               (i == 1 || tile[i] == axes[i].in);
  }
  channels_at_once = channels;
  if (in_place && collide(channels, in_size * value_bytes)) {
    // Few results are loaded and stored for every few channels sooner than all channels are copied.
    in_place = results_of_position * blocks <= kWays;
    if (in_place) channels_at_once = kWays;
  }
  channel_stride = window;
  if (const int64_t line = kLine / value_bytes; collide(channels, channel_stride * value_bytes))
    channel_stride = (ceil_div(channel_stride, line) | 1) * line;
}

}  // namespace ort_tconv
