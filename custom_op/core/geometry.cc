#include "core/geometry.h"

#include <algorithm>

#include "core/integers.h"
#include "core/status.h"

namespace ort_tconv {

AxisGeometry segregate(const Problem& p, int axis, bool aligned) {
  AxisGeometry g;
  g.stride = p.stride[axis];
  g.in = p.in[axis];
  g.out = p.out[axis];
  const int64_t pad = p.pad_begin[axis], dil = p.dilation[axis], k = p.kernel[axis];

  const int64_t owned = std::min(g.stride, g.out);  // residues that own an output
  g.classes.resize(owned);
  for (int64_t a = 0; a < owned; ++a) g.classes[a] = {a, ceil_div(g.out - a, g.stride), 0, {}};
  // t*dil = a + pad (mod s): each tap belongs to exactly one residue.
  for (int64_t t = 0; t < k; ++t) {
    const int64_t residue = (((t * dil - pad) % g.stride) + g.stride) % g.stride;
    if (residue >= owned) continue;
    g.classes[residue].taps.push_back({t, (residue + pad - t * dil) / g.stride});
  }

  const auto has_taps = [](const ResidueClass& c) { return !c.taps.empty(); };
  if (aligned && (dil == 1 || g.stride == 1) && std::all_of(g.classes.begin(), g.classes.end(), has_taps) &&
      owned == g.stride) {
    g.aligned = true;
    // taps[0] has the greatest offset; bring all of them to the smallest.
    int64_t least = INT64_MAX;
    for (const auto& c : g.classes) least = std::min(least, c.taps[0].offset);
    for (auto& c : g.classes) {
      c.shift = c.taps[0].offset - least;
      for (auto& tap : c.taps) tap.offset -= c.shift;
    }
    std::sort(g.classes.begin(), g.classes.end(), [&](const ResidueClass& l, const ResidueClass& r) {
      return l.residue - g.stride * l.shift < r.residue - g.stride * r.shift;
    });
  }
  for (const auto& c : g.classes) {
    g.domain = std::max(g.domain, c.shift + c.count);
    for (const auto& tap : c.taps) g.offsets.push_back(tap.offset);
  }
  std::sort(g.offsets.begin(), g.offsets.end());
  g.offsets.erase(std::unique(g.offsets.begin(), g.offsets.end()), g.offsets.end());
  if (!g.classes.empty()) g.origin = g.output(0, 0);
  return g;
}

std::vector<AxisGeometry> segregate(const Problem& p, bool aligned) {
  std::vector<AxisGeometry> axes;
  for (int i = 0; i < p.rank(); ++i) axes.push_back(segregate(p, i, aligned));
  return axes;
}

Problem spread_single_positions(const Problem& problem) {
  Problem p = problem;
  for (int i = 0; i < p.rank(); ++i) {
    if (p.in[i] != 1) continue;
    const int64_t stride = p.stride[i];
    p.stride[i] = std::max(stride, (p.kernel[i] - 1) * p.dilation[i] + 1);
    if (p.residue_classes() > kMaxResidueClasses) p.stride[i] = stride;
  }
  return p;
}

Problem join_single_positions(const Problem& p) {
  for (int i = 0; i < p.rank(); ++i)
    if (p.in[i] != 1 || p.pad_begin[i] != 0 || p.pad_end[i] != 0 || p.dilation[i] != 1 || p.out[i] != p.kernel[i] ||
        p.stride[i] < p.kernel[i])
      return p;
  Problem joined = p;
  const int64_t taps = product(p.kernel);
  joined.in = joined.dilation = {1};
  joined.kernel = joined.stride = joined.out = {taps};
  joined.pad_begin = joined.pad_end = {0};
  return taps <= kMaxResidueClasses ? joined : p;
}

AxisGeometry batch_axis(const Problem& p) {
  AxisGeometry g;
  g.stride = 1;
  g.in = g.out = g.domain = p.batch;
  g.classes = {{0, p.batch, 0, {{0, 0}}}};
  g.offsets = {0};
  g.aligned = true;
  return g;
}

bool have_equal_taps(const std::vector<AxisGeometry>& axes) {
  for (const auto& a : axes) {
    if (a.classes.empty()) return false;
    for (const auto& c : a.classes)
      if (c.taps.empty() || c.taps.size() != a.offsets.size()) return false;
  }
  return true;
}

double direct_macs(const Problem& p) {
  double macs = static_cast<double>(p.channels) * p.group_out();
  for (int i = 0; i < p.rank(); ++i) macs *= static_cast<double>(p.in[i]) * p.kernel[i];
  return macs;
}

}  // namespace ort_tconv
