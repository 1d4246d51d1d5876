// Nearest upsampling by integers s, then a Conv of stride 1, is a transposed convolution of stride s: its kernel
// is the Conv's, flipped and convolved with a box of s ones.  converters/upsample_conv.py derives it.
#include <algorithm>

#include "core/status.h"
#include "ort/provider/patterns/convolution.h"
#include "ort/provider/patterns/padding.h"
#include "ort/provider/patterns/patterns.h"
#include "ort/provider/patterns/resize.h"
#include "ort/provider/weights.h"

namespace ort_tconv::provider {
namespace {

struct Trace { const Node *pad, *resize; };

std::optional<Trace> trace(const Node& node) {
  const Value* source = node.input(0);
  const Node* before = source ? source->producer : nullptr;
  const Node* pad = nullptr;
  if (before && before->own("Pad")) {
    pad = before;
    source = pad->input(0);
    before = source ? source->producer : nullptr;
  }
  if (!before || !(before->own("Resize") || before->own("Upsample")) || !before->input(0)) return std::nullopt;
  return Trace{pad, before};
}

// Zeros before and after the upsampled image, and the copies of the edge of x in front of them.
struct Borders { Dims begins, ends, edge_begins, edge_ends; };

Borders borders(const Convolution& conv, const Padding& padding, const Dims& factors) {
  Borders result{conv.begins, conv.ends, {}, {}};
  if (!padding.any()) return result;
  if (padding.mode == "constant") {
    for (size_t i = 0; i < factors.size(); ++i) {
      result.begins[i] += padding.begins[i];
      result.ends[i] += padding.ends[i];
    }
    return result;
  }
  if (Padding{"", conv.begins, conv.ends}.any())
    refuse("Pad's mode '", padding.mode, "' is followed by Conv's own zeros");
  for (const Dims* side : {&padding.begins, &padding.ends}) {
    Dims& copies = side == &padding.begins ? result.edge_begins : result.edge_ends;
    Dims& left = side == &padding.begins ? result.begins : result.ends;
    for (size_t i = 0; i < factors.size(); ++i) {
      const int64_t amount = (*side)[i], s = factors[i];
      if (padding.mode == "reflect" && amount >= s)
        refuse("Pad reflects ", amount, " values, and only ", s - 1, " repeat the edge");
      copies.push_back((amount + s - 1) / s);
      // Of the copies that are too many, the operator crops what Pad did not add.
      left[i] = amount - s * copies[i];
    }
  }
  return result;
}

// ---- weights ------------------------------------------------------------------------------------

// h_j, the sum of w_t over r + (k - 1 - t) d = j with 0 <= r < s, along each spatial axis.
Array spread(Array w, const Dims& factors, const Dims& dilations) {
  for (size_t a = 0; a < factors.size(); ++a) {
    const size_t axis = 2 + a;
    const int64_t s = factors[a], d = dilations[a], k = w.shape[axis];
    int64_t outer = 1, inner = 1;
    for (size_t i = 0; i < axis; ++i) outer *= w.shape[i];
    for (size_t i = axis + 1; i < w.shape.size(); ++i) inner *= w.shape[i];
    Array h{w.shape, {}};
    h.shape[axis] = (k - 1) * d + s;
    h.values.assign(static_cast<size_t>(outer * h.shape[axis] * inner), 0.0);
    for (int64_t o = 0; o < outer; ++o)
      for (int64_t t = 0; t < k; ++t)
        for (int64_t j = t * d; j < t * d + s; ++j)
          for (int64_t i = 0; i < inner; ++i)
            h.values[(o * h.shape[axis] + j) * inner + i] += w.values[(o * k + k - 1 - t) * inner + i];
    w = std::move(h);
  }
  return w;
}

}  // namespace

std::optional<Site> upsample_conv(const Node& node, const Graph& graph, const Options& options) {
  if (!node.own("Conv")) return std::nullopt;
  const auto found = trace(node);
  if (!found) return std::nullopt;
  const auto [pad, resize] = *found;
  const Convolution conv = read_convolution(node, graph);
  const auto axes = static_cast<size_t>(conv.axes());
  Dims factors = integer_repeats(*resize, graph);
  if (factors.size() != axes + 2 || factors[0] != 1 || factors[1] != 1)
    refuse(resize->op, " enlarges by ", factors, "; batch and channels must stay");
  factors.erase(factors.begin(), factors.begin() + 2);
  if (*std::max_element(factors.begin(), factors.end()) == 1) refuse(resize->op, " enlarges no axis");
  const Padding padding = pad ? read_padding(*pad, axes, graph) : Padding{"constant", Dims(axes, 0), Dims(axes, 0)};
  const Borders around = borders(conv, padding, factors);
  Convolution padded = conv;
  padded.begins = around.begins;
  padded.ends = around.ends;
  const Pads pads = transposed_pads(padded);
  const bool repeated = !around.edge_begins.empty();

  Equivalent form{{conv.channels(), conv.shape[0] / conv.group}, factors, pads.begins, pads.ends, conv.group};
  const Dims reach = conv.reach();
  for (size_t i = 0; i < axes; ++i) form.w_shape.push_back(reach[i] + factors[i]);
  const auto kernel = [conv, factors](std::vector<double> w) {
    return spread(swap_channels({conv.shape, conv.weights(std::move(w))}, conv.group), factors, conv.dilations).values;
  };
  if (conv.dtype == DType::kFloat16)
    check_range(kernel(to_double(*graph.constant(node.inputs[1]))), conv.dtype, "weights");

  std::vector<const Node*> nodes{resize};
  if (pad) nodes.push_back(pad);
  nodes.push_back(&node);
  check_unread(nodes);
  const Value& x = *resize->inputs[0];
  int64_t passed = 2 * conv.channels();
  for (int64_t s : factors) passed *= s;
  Moved moved;
  moved.saved = passed * static_cast<int64_t>(nodes.size() - 1);
  moved.added = repeated ? 2 * conv.channels() : 0;
  check_gain(repeated ? conv : padded, form, factors, moved, x, nodes, graph, options);

  Site site = make_site(conv, form, x, "upsample_conv", graph);
  site.nodes = nodes;
  site.output = node.outputs[0]->name;
  site.reform = kernel;
  if (const Value* b = node.input(2)) site.b = b->name;
  if (repeated) {
    site.margin.begins = site.margin.ends = {0, 0};
    site.margin.begins.insert(site.margin.begins.end(), around.edge_begins.begin(), around.edge_begins.end());
    site.margin.ends.insert(site.margin.ends.end(), around.edge_ends.begin(), around.edge_ends.end());
    site.margin.edge = true;
  }
  return site;
}

}  // namespace ort_tconv::provider
