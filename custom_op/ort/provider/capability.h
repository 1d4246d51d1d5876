// Which nodes of a graph the provider takes, and why not the others.
#pragma once

#include <string>
#include <vector>

#include "ort/provider/options.h"
#include "ort/provider/site.h"

namespace ort_tconv::provider {

// A node that a pattern concerns and that is left alone, or that is not made a part of the site before it.
struct Left { std::string node, op, pattern, reason; };

struct Capability {
  std::vector<Site> sites;
  std::vector<Left> left;
};

// `obstacle` says why nothing of the graph can be taken; "" if it can.  Throws Error or std::bad_alloc.
Capability find_sites(const Graph& graph, const Options& options, const std::string& obstacle);

}  // namespace ort_tconv::provider
