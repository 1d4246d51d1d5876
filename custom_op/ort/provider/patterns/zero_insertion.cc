// Zeros put between the pixels, then a Conv of stride 1, is the conventional transposed convolution: its kernel is
// the Conv's, flipped.  converters/zero_insertion.py derives it.
#include <algorithm>

#include "core/status.h"
#include "ort/provider/patterns/convolution.h"
#include "ort/provider/patterns/padding.h"
#include "ort/provider/patterns/patterns.h"
#include "ort/provider/patterns/resize.h"
#include "ort/provider/weights.h"

namespace ort_tconv::provider {
namespace {

// Along each axis value j of x is value s j + a of what `nodes`, in their order, make of it; zeros are between.
struct Inserted {
  const Value* x;
  Dims strides, offsets;
  std::vector<const Node*> nodes;
};

const Node* producer(const Node& node, size_t i = 0) {
  const Value* const value = node.input(i);
  return value ? value->producer : nullptr;
}

bool same(const Size& a, const Size& b) {
  return a.number >= 0 ? a.number == b.number : b.number < 0 && !a.symbol.empty() && a.symbol == b.symbol;
}

// Elements of one image, or -1 if a size is not known.
int64_t image_size(const std::vector<Size>& sizes) {
  int64_t count = 1;
  for (size_t i = 1; i < sizes.size(); ++i) {
    if (sizes[i].number < 0) return -1;
    count = checked_mul(count, sizes[i].number, "size of an image");
  }
  return count;
}

// Whether two shapes of as many elements, but for a factor, have the same batch.
bool same_batch(const std::vector<Size>& a, const std::vector<Size>& b, int64_t growth) {
  const int64_t image = image_size(a);
  return same(a[0], b[0]) || (image > 0 && image * growth == image_size(b));
}

// Reshape, Pad, Reshape: [N, C, D, 1, ...] -> [N, C, D, s, ...] -> [N, C, s D, ...].
std::optional<Inserted> reshaped(const Node& last, const Graph& graph) {
  const Node* const pad = producer(last);
  const Node* const first = pad && pad->own("Pad") ? producer(*pad) : nullptr;
  if (!first || !(first->own("Reshape") || first->own("Unsqueeze")) || !first->input(0)) return std::nullopt;
  const Value& x = *first->inputs[0];
  const auto sizes = graph.sizes(x), split = graph.sizes(*first->outputs[0]), merged = graph.sizes(*last.outputs[0]);
  if (!sizes || !split || !merged || sizes->size() < 3) return std::nullopt;
  const size_t axes = sizes->size() - 2, rank = 2 + 2 * axes;
  if (split->size() != rank || merged->size() != sizes->size()) return std::nullopt;
  if (!same((*sizes)[1], (*split)[1]) || !same((*sizes)[1], (*merged)[1])) return std::nullopt;
  const Padding between = pad_amounts(*pad, rank, graph);
  if (between.mode != "constant" || between.begins[0] || between.begins[1] || between.ends[0] || between.ends[1])
    return std::nullopt;
  Inserted found{&x, {}, {}, {first, pad, &last}};
  for (size_t i = 0; i < axes; ++i) {
    const size_t axis = 2 + 2 * i;
    const int64_t s = 1 + between.begins[axis + 1] + between.ends[axis + 1];
    const Size &side = (*sizes)[2 + i], &grown = (*merged)[2 + i];
    if (!same(side, (*split)[axis]) || (*split)[axis + 1].number != 1 || between.begins[axis] || between.ends[axis])
      return std::nullopt;
    // ONNX Runtime's symbols cannot be multiplied, so that an open size is known only where it stays.
    if (side.number < 0 ? s != 1 || !same(side, grown) : grown.number != side.number * s) return std::nullopt;
    found.strides.push_back(s);
    found.offsets.push_back(between.begins[axis + 1]);
  }
  const int64_t growth = element_count(found.strides, "enlargement");
  if (growth == 1 || !same_batch(*sizes, *split, 1) || !same_batch(*sizes, *merged, growth)) return std::nullopt;
  return found;
}

// Where the mask, broadcast to `sides`, keeps one value of each block of `strides`, and the same in all images;
// nothing if it is not such a mask.
std::optional<Dims> kept(const Tensor& mask, const Dims& sides, const Dims& strides) {
  const size_t rank = sides.size(), missing = rank - mask.shape.size();
  const std::vector<double> values = to_double(mask);
  Dims steps(rank, 0), at(rank, 0), offsets;
  for (size_t i = mask.shape.size(), step = 1; i-- > 0;) {
    if (mask.shape[i] != 1 && mask.shape[i] != sides[missing + i]) return std::nullopt;
    if (mask.shape[i] != 1) steps[missing + i] = static_cast<int64_t>(step);
    step *= static_cast<size_t>(mask.shape[i]);
  }
  const int64_t total = element_count(sides, "size of the mask");
  for (int64_t n = 0; n < total; ++n) {
    int64_t place = 0;
    for (size_t i = 0; i < rank; ++i) place += at[i] * steps[i];
    const double value = values[static_cast<size_t>(place)];
    if (offsets.empty() && value == 1) {
      offsets.assign(at.begin() + 2, at.end());
      for (size_t i = 0; i < offsets.size(); ++i)
        if (at[0] || at[1] || offsets[i] >= strides[i]) return std::nullopt;
    }
    bool keep = !offsets.empty();
    for (size_t i = 0; keep && i < offsets.size(); ++i) keep = at[2 + i] % strides[i] == offsets[i];
    if (value != (keep ? 1 : 0)) return std::nullopt;
    for (size_t i = rank; i-- > 0 && ++at[i] == sides[i];) at[i] = 0;
  }
  if (offsets.empty()) return std::nullopt;
  return offsets;
}

// Nearest Resize, and Mul with a mask.
std::optional<Inserted> masked(const Node& mul, const Graph& graph) {
  for (size_t index = 0; index < 2; ++index) {
    const Node* const resize = producer(mul, index);
    if (!resize || !(resize->own("Resize") || resize->own("Upsample")) || !resize->input(0)) continue;
    const auto mask = graph.constant(mul.input(1 - index));
    if (!mask) continue;
    const Dims sides = graph.dims(*mul.outputs[0]);
    if (sides.size() < 3 || *std::min_element(sides.begin(), sides.end()) < 1 || mask->shape.size() > sides.size())
      return std::nullopt;
    Dims strides = integer_repeats(*resize, graph);
    if (strides.size() != sides.size() || strides[0] != 1 || strides[1] != 1) return std::nullopt;
    strides.erase(strides.begin(), strides.begin() + 2);
    if (*std::max_element(strides.begin(), strides.end()) == 1) return std::nullopt;
    const auto offsets = kept(*mask, sides, strides);
    if (!offsets) return std::nullopt;
    return Inserted{resize->inputs[0], strides, *offsets, {resize, &mul}};
  }
  return std::nullopt;
}

}  // namespace

std::optional<Site> zero_insertion(const Node& node, const Graph& graph, const Options& options) {
  if (!node.own("Conv")) return std::nullopt;
  const Node *before = producer(node), *pad = nullptr;
  if (before && before->own("Pad")) {
    pad = before;
    before = producer(*before);
  }
  std::optional<Inserted> found;
  if (before && before->own("Reshape")) found = reshaped(*before, graph);
  else if (before && before->own("Mul")) found = masked(*before, graph);
  if (!found) return std::nullopt;

  const Convolution conv = read_convolution(node, graph);
  const auto axes = static_cast<size_t>(conv.axes());
  if (found->strides.size() != axes) refuse("zeros are inserted in ", found->strides.size(), " of ", axes, " axes");
  const Padding padding = pad ? read_padding(*pad, axes, graph) : Padding{"constant", Dims(axes, 0), Dims(axes, 0)};
  if (padding.any() && padding.mode != "constant") refuse("Pad's mode is '", padding.mode, "'");

  Equivalent form{
      {conv.channels(), conv.shape[0] / conv.group}, found->strides, {}, {}, conv.group, conv.dilations, {}};
  const Dims reach = conv.reach();
  for (size_t i = 0; i < axes; ++i) {
    form.w_shape.push_back(conv.shape[2 + i]);
    const int64_t s = found->strides[i], a = found->offsets[i];
    const int64_t begin = reach[i] - conv.begins[i] - padding.begins[i] - a;
    const int64_t end = reach[i] - conv.ends[i] - padding.ends[i] + a + 1 - s;
    if (begin < 0 || -end >= std::max(s, conv.dilations[i]))
      refuse("the zeros around spatial axis ", i, " exceed the kernel's reach, (kernel - 1) * dilation = ", reach[i]);
    form.begins.push_back(begin);
    form.ends.push_back(std::max<int64_t>(0, end));
    form.output_padding.push_back(std::max<int64_t>(0, -end));
  }

  std::vector<const Node*> nodes = found->nodes;
  if (pad) nodes.push_back(pad);
  nodes.push_back(&node);
  int64_t passed = 2 * conv.channels() * static_cast<int64_t>(nodes.size() - 1);
  for (int64_t s : found->strides) passed *= s;
  check_unread(nodes);
  Moved moved;
  moved.saved = passed;
  check_gain(conv, form, found->strides, moved, *found->x, nodes, graph, options);

  Site site = make_site(conv, form, *found->x, "zero_insertion", graph);
  site.nodes = nodes;
  site.output = node.outputs[0]->name;
  site.reform = flip(conv);
  if (const Value* b = node.input(2)) site.b = b->name;
  return site;
}

}  // namespace ort_tconv::provider
