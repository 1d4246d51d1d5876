// Shuffles that deal channels out to pixels: DepthToSpace, and chains of Reshape, Transpose, Squeeze and
// Unsqueeze that do the same.
#pragma once

#include <optional>
#include <vector>

#include "ort/provider/site.h"

namespace ort_tconv::provider {

// Which channel each channel m of the result finds at each place of a block: [M, s1, ..., sd].
struct ChannelIndex {
  Dims shape;
  std::vector<int64_t> channels;
};

struct Shuffle {
  std::vector<const Node*> nodes;
  ChannelIndex index;
};

// The shuffle that begins at `value`, of this shape; -1 stands for an open size.
std::optional<Shuffle> find_shuffle(const Value& value, const Dims& dims, const Graph& graph);

}  // namespace ort_tconv::provider
