// Pad around a convolution.
#pragma once

#include <string>

#include "ort/provider/site.h"

namespace ort_tconv::provider {

struct Padding {
  std::string mode = "constant";  // of zeros, or edge or reflect
  Dims begins, ends;              // one entry an axis

  bool any() const;
};

// What `node` adds to the axes of its input, of this rank.  Throws Refusal if that is not known, if it removes
// values, or adds a constant other than zero.
Padding pad_amounts(const Node& node, size_t rank, const Graph& graph);

// The same of the spatial axes alone.  Throws Refusal also if these are not all.
Padding read_padding(const Node& node, size_t axes, const Graph& graph);

}  // namespace ort_tconv::provider
