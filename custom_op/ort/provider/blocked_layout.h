// ONNX Runtime's blocked layout: which values its optimiser keeps in it, and what that costs.
// converters/blocked_layout.py has the same rules for the converter.
#pragma once

#include <map>
#include <set>
#include <vector>

#include "ort/provider/graph.h"

namespace ort_tconv::provider {

// The layout of each value in a session of stock ONNX Runtime on the CPU.  Its optimiser computes float32 Convs of two
// spatial axes and constant weights on channels in blocks, [N, C/b, H, W, b], and so pools.  Other nodes stay in the
// layout if all of their inputs are there: sums, products, concatenated channels, some activations and upsampling.
// Everything else, and so the operator, takes [N, C, H, W].  Where the layouts meet, a node that does nothing else
// copies the value.
//
// Nodes that sites have taken count as the operator's; those in `replaced` as one, which reads the values `reads`.
class BlockedLayout {
 public:
  explicit BlockedLayout(const Graph& graph, const std::vector<const Node*>& replaced = {},
                         const std::vector<const Value*>& reads = {});

  // Whether a node in the blocked layout computes the value.
  bool is_blocked(const Value* value) const { return is_blocked(value, 0); }
  // Of the copies of `values`, in the plan's unit: each reads and writes all elements once.
  double cost(const std::vector<const Value*>& values) const;

 private:
  bool is_operator(const Node& node) const { return node.taken || replaced_.count(&node) > 0; }
  bool is_blocked(const Value* value, int depth) const;
  bool computes_blocked(const Node& node, int depth) const;
  bool is_blocked_conv(const Node& node) const;
  bool is_blocked_pool(const Node& node) const;
  bool whole_blocks(const Value* value) const;
  bool is_fused(const Node& node) const;
  bool enlarges_in_place(const Node& node) const;
  bool copied(const Value& value) const;
  bool takes_blocked(const Node& node, const Value& value) const;
  bool wants_blocked(const Node& node, const Value& value) const;

  const Graph& graph_;
  std::set<const Node*> replaced_;
  std::set<const Value*> reads_;
  int64_t block_;  // channels that lie side by side: ONNX Runtime's choice for this processor
  mutable std::map<const Value*, bool> known_;
};

// The values whose layout may depend on whether `nodes` are in the blocked one: what they read and write, and what
// nodes without a layout of their own make of it and read beside it.
std::vector<const Value*> around(const std::vector<const Node*>& nodes, const std::vector<const Value*>& reads);

}  // namespace ort_tconv::provider
