#include "cpu/winograd_transforms.h"

#include <algorithm>
#include <utility>

namespace ort_tconv {

WinogradTransforms::WinogradTransforms(const std::vector<AxisGeometry>& axes, std::vector<WinogradAxis> winograd,
                                       std::vector<WindowAxis> window, Dims window_stride, const Dims& tile,
                                       const std::vector<SubKernel>& sub_kernels, int64_t pitch, int64_t line)
    : last_classes(static_cast<int64_t>(axes.back().classes.size())), winograd_(std::move(winograd)),
      window_(std::move(window)), window_stride_(std::move(window_stride)), tile_(tile), pitch_(pitch), line_(line) {
  for (int i = 0; i < this->axes(); ++i) {
    const WinogradAxis& w = winograd_[i];
    const int64_t tiles_here = w.tiles(tile[i]);
    full_tiles *= tiles_here;
    input_tiles_.push_back(w.plain ? window_[i].extent : input_tiles(w, tiles_here));
    if (!w.plain) transformed_.insert(transformed_.begin(), i);
    points *= i + 1 == this->axes() ? w.points : w.most_points();
    places *= w.step;
    int lines = std::max(w.window, i + 1 == this->axes() ? w.points : w.most_points());
    for (const WinogradKind& k : w.kinds)
      lines = std::max(lines, w.plain ? k.taps : static_cast<int>(w.groups) * k.alpha);
    pass_lines *= lines;
  }
  if (transformed_.size() <= 2) pass_lines = 0;
  input_stride_.assign(this->axes(), pitch);
  for (int i = this->axes() - 2; i >= 0; --i) input_stride_[i] = input_stride_[i + 1] * input_tiles_[i + 1];
  point_stride = staggered(product(input_tiles_) * pitch);
  for (const auto& sub : sub_kernels) describe(axes, sub);
  std::map<std::vector<int>, std::vector<int64_t>> firsts;  // of groups, by the kinds of the leading axes
  for (int64_t first = 0; first < static_cast<int64_t>(sub_kernels.size()); first += last_classes) {
    std::vector<int> kinds;
    for (int i = 0; i + 1 < this->axes(); ++i)
      kinds.push_back(winograd_[i].plain ? 0 : winograd_[i].kind_of_class[sub_kernels[first].classes[i]]);
    firsts[kinds].push_back(first);
  }
  for (const auto& [kinds, of_kinds] : firsts) {
    Input input = make_input(sub_kernels[of_kinds.front()]);
    input.first_group = static_cast<int64_t>(groups.size());
    for (int64_t first : of_kinds) groups.push_back(make_group(sub_kernels, first));
    input.end_group = static_cast<int64_t>(groups.size());
    inputs.push_back(std::move(input));
  }
}

Dims WinogradTransforms::tiles(const Dims& extent) const {
  Dims n;
  for (int i = 0; i < axes(); ++i) n.push_back(winograd_[i].tiles(extent[i]));
  return n;
}

void WinogradTransforms::locate(const Dims& extent, const Dims& tiles, int64_t line, int64_t width, int64_t* x_offset,
                                int64_t* acc_offset, int64_t* row_offset, int64_t* column_offset) const {
  const int last = axes() - 1;
  Odometer lead(extent.begin(), extent.begin() + last);
  do {
    int64_t row = 0, within = 0, tile = 0;
    for (int i = 0; i < last; ++i) {
      row = row * tile_[i] + lead.at[i];
      within = within * winograd_[i].step + winograd_[i].place(lead.at[i]);
      tile = tile * tiles[i] + winograd_[i].tile(lead.at[i]);
    }
    row_offset[row] = within * winograd_[last].step * line + tile * tiles[last] * width;
  } while (lead.next());
  for (int64_t i = 0; i < extent[last]; ++i)
    column_offset[i] = winograd_[last].place(i) * line + winograd_[last].tile(i) * width;
  Odometer tile(tiles);
  int64_t i = 0;
  do {
    x_offset[i] = 0;
    for (int axis = 0; axis < axes(); ++axis) {
      const WinogradAxis& w = winograd_[axis];
      x_offset[i] += (w.sliding ? w.position(tile.at[axis]) : tile.at[axis]) * input_stride_[axis];
    }
    acc_offset[i] = i * width;
    ++i;
  } while (tile.next());
}

void WinogradTransforms::AxisMaps::add(LineMap map, int lines, int64_t from, int64_t to) {
  if (map != LineMap::kCopy) return pieces.push_back({map, from, to});
  for (int l = 0; l < lines; ++l) pieces.push_back({map, from + l, to + l});
}

void WinogradTransforms::describe(const std::vector<AxisGeometry>& axes, const SubKernel& sub) {
  std::vector<int> kinds;
  for (int i = 0; i < this->axes(); ++i) kinds.push_back(winograd_[i].kind_of_class[sub.classes[i]]);
  // Along an axis, taps lie by rising input position, the reverse of their order in the class, after the zeros that
  // fill up the first group; transformed weights as [group][point] of a transformed and [tap] of a plain axis.
  Form form;
  Dims alpha, plain, lines, own, zeros;
  for (int i = 0; i < this->axes(); ++i) {
    const WinogradKind& k = kind(i, sub);
    const WinogradAxis& w = winograd_[i];
    own.push_back(static_cast<int64_t>(axes[i].classes[sub.classes[i]].taps.size()));
    alpha.push_back(k.alpha);
    plain.push_back(w.plain ? k.taps : w.groups);
    lines.push_back(w.plain ? k.taps : w.groups * k.taps);
    zeros.push_back(w.groups > 1 ? w.most_taps - own[i] : 0);
    form.halves += k.weights == LineMap::kWeights32 || k.weights == LineMap::kWeights23;
  }
  max_class_points = std::max(max_class_points, product(alpha));
  if (!sub.taps.empty()) {
    // As (class point, tap) until the products are known: the first and the last point of a group of taps are its first
    // and its last (cpu/plane_impl.h).
    form.untransformed.resize(sub.taps.size());
    bool between = false;
    Odometer line(lines);
    do {
      int64_t index = 0, class_point = 0, tap = 0;
      for (int i = 0; i < this->axes() && index >= 0; ++i) {
        const WinogradKind& k = kind(i, sub);
        const int64_t at = line.at[i] - zeros[i], within = winograd_[i].plain ? 0 : line.at[i] % k.taps;
        index = at < 0 || at >= own[i] ? -1 : index * own[i] + own[i] - 1 - at;
        between = between || (index >= 0 && within > 0 && within < k.taps - 1);
        class_point = class_point * k.alpha + (within > 0 ? k.alpha - 1 : 0);
        tap = tap * plain[i] + (winograd_[i].plain ? line.at[i] : line.at[i] / k.taps);
      }
      form.sources.push_back(index < 0 ? -1 : sub.taps[index]);
      if (index >= 0) form.untransformed[index] = class_point * product(plain) + tap;
    } while (line.next());
    if (between) form.untransformed.clear();
    Odometer tap(plain);
    do {
      ptrdiff_t offset = 0;
      for (int i = 0; i < this->axes(); ++i) {
        int64_t position = tap.at[i] * winograd_[i].kinds[0].taps * winograd_[i].spacing;
        if (winograd_[i].plain) {
          const auto& taps = axes[i].classes[sub.classes[i]].taps;
          position = window_[i].position(taps[taps.size() - 1 - tap.at[i]].offset);
        }
        offset += position * input_stride_[i];
      }
      form.taps.push_back(offset);
    } while (tap.next());
    Odometer point(alpha);
    do {
      Odometer t(plain);
      do {
        int64_t index = 0;
        for (int i = 0; i < this->axes(); ++i) index = index * alpha[i] * plain[i] + t.at[i] * alpha[i] + point.at[i];
        form.weight.push_back(index);
      } while (t.next());
    } while (point.next());
  }
  max_weights =
      std::max({max_weights, static_cast<int64_t>(form.sources.size()), static_cast<int64_t>(form.weight.size())});
  most_plain_taps = std::max(most_plain_taps, static_cast<int64_t>(form.taps.size()));
  auto found = steps_.find(kinds);
  if (found == steps_.end()) found = steps_.emplace(kinds, make_class_steps(sub)).first;
  form.steps = &found->second;
  forms.push_back(std::move(form));
}

WinogradTransforms::Input WinogradTransforms::make_input(const SubKernel& sub) const {
  std::vector<AxisMaps> maps(axes());
  Dims stride;
  for (int i = 0; i < axes(); ++i) {
    const WinogradAxis& w = winograd_[i];
    stride.push_back(window_stride_[i] * w.spacing * pitch_);
    maps[i].in = w.window;
    if (i + 1 < axes()) {
      const WinogradKind& k = kind(i, sub);
      maps[i].out = k.alpha;
      maps[i].add(k.input, k.alpha, k.first, 0);
      continue;
    }
    maps[i].out = w.points;
    for (size_t k = 0; k < w.kinds.size(); ++k)
      maps[i].add(w.kinds[k].input, w.kinds[k].alpha, w.kinds[k].first, w.first_point[k]);
  }
  return {make_steps(maps, stride), 0, 0};
}

WinogradTransforms::Steps WinogradTransforms::make_class_steps(const SubKernel& sub) const {
  std::vector<AxisMaps> output(axes()), weights(axes());
  for (int i = 0; i < axes(); ++i) {
    const WinogradKind& k = kind(i, sub);
    const WinogradAxis& w = winograd_[i];
    output[i].in = k.alpha;
    output[i].out = w.step;
    output[i].add(k.output, k.alpha, 0, 0);
    weights[i].in = w.groups * k.taps;
    weights[i].out = w.plain ? k.taps : w.groups * k.alpha;
    for (int64_t g = 0; g < w.groups; ++g) weights[i].add(k.weights, k.taps, g * k.taps, g * k.alpha);
  }
  return {make_steps(weights, row_major(weights, &AxisMaps::in)), make_steps(output, row_major(output, &AxisMaps::in))};
}

// Strides of lines that lie in the order of the axes.
Dims WinogradTransforms::row_major(const std::vector<AxisMaps>& maps, int64_t AxisMaps::* lines) {
  Dims stride(maps.size(), 1);
  for (size_t i = maps.size() - 1; i > 0; --i) stride[i - 1] = stride[i] * maps[i].*lines;
  return stride;
}

std::vector<PlaneStep> WinogradTransforms::make_steps(std::vector<AxisMaps> maps, Dims stride) const {
  std::vector<PlaneStep> steps;
  for (size_t done = 0; done < transformed_.size(); done += 2) {
    const int column = transformed_[done];
    const bool two = done + 1 < transformed_.size(), last = done + 2 >= transformed_.size();
    const int row = two ? transformed_[done + 1] : column;
    Dims others;
    for (int i = 0; i < axes(); ++i) others.push_back(i == row || i == column ? 1 : maps[i].in);
    for (int axis : {row, column}) maps[axis].in = maps[axis].out;
    const Dims to = row_major(maps, &AxisMaps::in);
    const std::vector<AxisMaps::Piece> whole = {{LineMap::kCopy, 0, 0}};
    Odometer at(others);
    do {
      ptrdiff_t in = 0, out = 0;
      for (int i = 0; i < axes(); ++i) in += at.at[i] * stride[i], out += at.at[i] * to[i];
      for (const auto& r : two ? maps[row].pieces : whole)
        for (const auto& c : maps[column].pieces)
          steps.push_back({r.map,
                           c.map,
                           done == 0 ? 0 : 1 + static_cast<int>(done / 2 + 1) % 2,
                           last ? 3 : 1 + static_cast<int>(done / 2) % 2,
                           in + r.in * stride[row] + c.in * stride[column],
                           out + r.out * to[row] + c.out * to[column],
                           {stride[row], stride[column]},
                           {to[row], to[column]}});
    } while (at.next());
    stride = to;
  }
  return steps;
}

WinogradTransforms::Group WinogradTransforms::make_group(const std::vector<SubKernel>& sub_kernels, int64_t first) {
  Group group{first, {}};
  for (int64_t k = 0; k < last_classes; ++k) {
    const SubKernel& sub = sub_kernels[first + k];
    Dims alpha;
    for (int i = 0; i < axes(); ++i) alpha.push_back(kind(i, sub).alpha);
    Odometer at(alpha);
    int64_t class_point = 0;
    do {
      int64_t point = 0;
      for (int i = 0; i < axes(); ++i) {
        const auto& axis = winograd_[i];
        if (i + 1 < axes()) point = point * kind(i, sub).alpha + at.at[i];
        else point = point * axis.points + axis.first_point[axis.kind_of_class[sub.classes[i]]] + at.at[i];
      }
      group.products.push_back({point, k, class_point++, 0});
    } while (at.next());
  }
  // By point, so that its transformed input is fetched once for all classes.
  std::stable_sort(group.products.begin(), group.products.end(),
                   [](const Product& l, const Product& r) { return l.point < r.point; });
  for (Product& p : group.products) {
    p.first_tap = total_products;
    total_products += static_cast<int64_t>(forms[first + p.last_class].taps.size());
  }
  for (int64_t k = 0; k < last_classes; ++k) {
    Form& form = forms[first + k];
    std::vector<int64_t> first_tap(static_cast<size_t>(max_class_points));
    for (const Product& p : group.products)
      if (p.last_class == k) first_tap[static_cast<size_t>(p.class_point)] = p.first_tap;
    const int64_t taps = static_cast<int64_t>(form.taps.size());
    for (int64_t& place : form.untransformed) place = first_tap[static_cast<size_t>(place / taps)] + place % taps;
  }
  return group;
}

}  // namespace ort_tconv
