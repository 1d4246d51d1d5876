#include "ort/provider/report.h"

#include <algorithm>
#include <fstream>
#include <set>

#include "core/status.h"

namespace ort_tconv::provider {
namespace {

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    if (static_cast<unsigned char>(c) < 0x20) {
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), "\\u%04x", c);
      result += escaped;
    } else {
      result += c;
    }
  }
  return result + '"';
}

template <class List, class Write> std::string list_of(const List& items, Write write) {
  std::string result = "[";
  for (const auto& item : items) result += (result.size() > 1 ? ", " : "") + write(item);
  return result + "]";
}

// Why a site that is not compiled is left, also one that was claimed.
const std::string& why(const std::string& reason) {
  static const std::string lost = "ONNX Runtime did not give it to the provider";
  return reason.empty() ? lost : reason;
}

}  // namespace

void Report::looked(const Graph& graph, const Capability& found) {
  const std::string where = graph.parent() ? "subgraph " + graph.name() : "graph";
  std::string key = concat(graph.parent() ? graph.parent()->name : "", "/", graph.name());
  std::set<std::string> outputs;  // old ONNX Runtimes do not tell parents; the order of nodes changes between looks
  for (const auto& node : graph.nodes())
    for (const Value* value : node->outputs)
      if (value && value->graph_output) outputs.insert(value->name);
  for (const auto& output : outputs) key += "/" + output;
  auto& entries = graphs_[key];
  entries.clear();
  for (const Site& site : found.sites) {
    Entry entry{site.label, site.nodes.front()->op, where, site.pattern, {}, site.output, "", ""};
    for (const Node* node : site.nodes) entry.nodes.push_back(node->label());
    entries.push_back(std::move(entry));
  }
  for (const Left& left : found.left)
    entries.push_back({left.node, left.op, where, left.pattern, {left.node}, "", left.reason, ""});
}

void Report::compiled(const Site& site, const std::string& kernel) {
  for (auto& [graph, entries] : graphs_)
    for (auto it = entries.begin(); it != entries.end(); ++it)
      if (it->output == site.output && it->node == site.label) {
        compiled_.push_back(std::move(*it));
        compiled_.back().kernel = kernel;
        entries.erase(it);
        return;
      }
}

std::string Report::reasons() const {
  std::string result;
  for (const auto& [graph, entries] : graphs_)
    for (const Entry& entry : entries) result += concat("\n  ", entry.op, " '", entry.node, "': ", why(entry.reason));
  for (const auto& error : errors_) result += "\n  error: " + error;
  return result;
}

std::string Report::json() const {
  const auto write = [](const Entry& entry, bool claimed, const std::string& reason) {
    return concat("{\"node\": ", quoted(entry.node), ", \"op_type\": ", quoted(entry.op),
                  ", \"where\": ", quoted(entry.where), ", \"pattern\": ", quoted(entry.pattern),
                  ", \"nodes\": ", list_of(entry.nodes, quoted), ", \"claimed\": ", claimed ? "true" : "false",
                  ", \"reason\": ", quoted(reason), ", \"kernel\": ", quoted(entry.kernel), "}");
  };
  std::vector<std::string> sites;
  for (const Entry& entry : compiled_) sites.push_back(write(entry, true, ""));
  for (const auto& [graph, entries] : graphs_)
    for (const Entry& entry : entries) sites.push_back(write(entry, false, why(entry.reason)));
  return concat("{\"sites\": ", list_of(sites, [](const std::string& s) { return s; }),
                ", \"errors\": ", list_of(errors_, quoted), "}\n");
}

void Report::write(const std::string& path) const {
  std::ofstream file(path);
  file << json();
  file.flush();
  require(file.good(), "option report = '", path, "': the file cannot be written");
}

}  // namespace ort_tconv::provider
