#include "ort/provider/options.h"

#include <fnmatch.h>

#include <algorithm>
#include <string_view>

#include "core/plan.h"
#include "core/status.h"

namespace ort_tconv::provider {
namespace {

constexpr std::string_view kPrefix = kOptionPrefix;

bool is_set(const std::string& name, const std::string& value) {
  if (value == "1" || value == "true" || value == "True") return true;
  require(value == "0" || value == "false" || value == "False" || value.empty(), "option ", name, " = '", value,
          "': must be 0 or 1");
  return false;
}

std::string known_algorithm(const std::string& value) {
  std::string known = "auto";
  if (value.empty() || value == known) return "";
  for (Algorithm each : kAlgorithms) {
    if (value == ort_tconv::name(each)) return value;
    known += concat(", ", ort_tconv::name(each));
  }
  fail("option algorithm = '", value, "': must be one of ", known);
}

std::vector<std::string> parts(const std::string& value) {
  std::vector<std::string> items;
  for (size_t begin = 0; begin <= value.size();) {
    const size_t end = std::min(value.find(';', begin), value.size());
    if (end > begin) items.push_back(value.substr(begin, end - begin));
    begin = end + 1;
  }
  return items;
}

}  // namespace

Options Options::read(const OrtApi& api, const OrtSessionOptions* session) {
  OrtKeyValuePairs* pairs = nullptr;
  check(api, api.GetSessionOptionsConfigEntries(session, &pairs));
  const Owned<OrtKeyValuePairs> owned(pairs, api.ReleaseKeyValuePairs);
  const char *const *keys = nullptr, *const *values = nullptr;
  size_t count = 0;
  api.GetKeyValuePairs(pairs, &keys, &values, &count);
  Options options;
  for (size_t i = 0; i < count; ++i) {
    const std::string_view key = keys[i];
    if (key.substr(0, kPrefix.size()) != kPrefix) continue;
    const std::string name(key.substr(kPrefix.size())), value = values[i];
    if (name == "algorithm") options.algorithm = known_algorithm(value);
    else if (name == "exclude") options.exclude = parts(value);
    else if (name == "weights") parse_weights(options.weights = value, "option");
    else if (name == "strict") options.strict = is_set(name, value);
    else if (name == "report") options.report = value;
    else fail("there is no option '", name, "'; there are algorithm, exclude, report, strict and weights");
  }
  return options;
}

bool matches(const std::string& pattern, const std::string& name) {
  return fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
}

}  // namespace ort_tconv::provider
