// How the narrow engine, whose lanes are positions along a row, lays a tile out: for its plans and for itself.
#pragma once

#include <vector>

#include "core/geometry.h"
#include "core/problem.h"

namespace ort_tconv {

struct RowLayout {
  int64_t strip = 1;                    // rows, along the last axis but one, that are summed and stored before the next
  bool flat = false;                    // a strip's rows run through the window's halo, as one row
  bool in_place = false;                // the input itself serves as the window: no halo, rows whole
  int64_t channels_at_once = 0;         // input channels that are summed before the next
  int64_t channel_stride = 0;           // values from one input channel of a window to the next
  int64_t row_stride = 0, results = 0;  // of results: from row to row, and of a (sub-kernel, output channel) in all
  int64_t vectors = 0;                  // summed for each of a full tile's (sub-kernel, output channel)

  RowLayout() = default;
  // Of tiles with so many results, a (sub-kernel, output channel) each, at every position, in each of a task's blocks;
  // `converted` if the input is stored in another type than it is summed in, which takes value_bytes.
  RowLayout(const std::vector<AxisGeometry>& axes, const Dims& tile, int64_t results_of_position, int64_t blocks,
            int64_t channels, int64_t lanes, int64_t value_bytes, bool converted);
};

}  // namespace ort_tconv
