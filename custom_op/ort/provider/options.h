// What a user can set: session options `ep.tconvexecutionprovider.<name>`.
#pragma once

#include <string>
#include <vector>

#include "ort/support.h"

namespace ort_tconv::provider {

constexpr const char* kOptionPrefix = "ep.tconvexecutionprovider.";

struct Options {
  std::string algorithm;             // "" or "auto": the plan decides
  std::string weights;               // how float32 constants are kept, as the operator's attribute says it
  std::vector<std::string> exclude;  // shell-style patterns of names of nodes to leave alone
  bool strict = false;               // a session in which nothing is claimed is an error
  std::string report;                // file to which the report is written when the session is created

  // Throws Error for an unknown option or value.
  static Options read(const OrtApi& api, const OrtSessionOptions* options);
};

// Whether `name` matches a shell-style pattern: *, ? and [...].
bool matches(const std::string& pattern, const std::string& name);

}  // namespace ort_tconv::provider
