// Which nodes of a graph the provider takes, and why not the others.
#pragma once

#include <string>
#include <vector>

#include "ort/provider/options.h"
#include "ort/provider/site.h"

namespace ort_tconv::provider {

// A node that a pattern concerns.
struct Candidate {
  std::string node, op;
  std::string where;               // "graph" or "subgraph <name>"
  std::string pattern;             // empty if several were tried
  std::vector<std::string> nodes;  // that the site takes, if it is claimed
  std::string reason;              // why it is left; empty if it is claimed
};

struct Capability {
  std::vector<Site> sites;
  std::vector<Candidate> candidates;
};

// Throws Error or std::bad_alloc.
Capability find_sites(const Graph& graph, const Options& options);

}  // namespace ort_tconv::provider
