// What came of a model in one session, as JSON for people and tools: {"sites": [...], "errors": [...]}, a site
// being {"node", "op_type", "where", "pattern", "nodes", "claimed", "reason", "kernel"}.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "ort/provider/capability.h"

namespace ort_tconv::provider {

class Report {
 public:
  // Of the latest look at a graph; what was compiled before stays.
  void looked(const Graph& graph, const Capability& found);
  // `kernel` is the fused node's name, by which ONNX Runtime's profiles call it.
  void compiled(const Site& site, const std::string& kernel);
  void failed(const std::string& error) { errors_.push_back(error); }

  const std::vector<std::string>& errors() const { return errors_; }
  // Why there is nothing, a line each.
  std::string reasons() const;
  std::string json() const;
  // Throws Error if the file cannot be written.
  void write(const std::string& path) const;

 private:
  struct Entry {
    std::string node, op, where, pattern;
    std::vector<std::string> nodes;
    std::string output, reason;  // a site that is claimed has no reason
    std::string kernel;          // of one that is compiled
  };
  std::vector<Entry> compiled_;
  std::map<std::string, std::vector<Entry>> graphs_;  // claimed and left, by the graph
  std::vector<std::string> errors_;
};

}  // namespace ort_tconv::provider
