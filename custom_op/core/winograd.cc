#include "core/winograd.h"

#include <algorithm>

namespace ort_tconv {
namespace {

constexpr int64_t kMostSpacing = 1024;  // beyond, any tile takes too much memory

// Of tiles of `step` outputs.
WinogradKind kind(int taps, int first, int step) {
  WinogradKind k;
  k.taps = taps;
  k.first = first;
  k.alpha = step + taps - 1;
  const bool large = step == 4;
  if (taps == 3) {
    k.input = large ? LineMap::kInput6 : LineMap::kInput4;
    k.output = large ? LineMap::kOutput43 : LineMap::kOutput23;
    k.weights = large ? LineMap::kWeights43 : LineMap::kWeights23;
  } else if (taps == 2) {
    k.input = large ? LineMap::kInput5 : step == 3 ? LineMap::kInput4 : LineMap::kInput3;
    k.output = large ? LineMap::kOutput42 : step == 3 ? LineMap::kOutput32 : LineMap::kOutput22;
    k.weights = large ? LineMap::kWeights42 : step == 3 ? LineMap::kWeights32 : LineMap::kWeights22;
  } else {  // one product for each output
    k.weights = large ? LineMap::kRepeat4 : step == 3 ? LineMap::kRepeat3 : LineMap::kRepeat2;
  }
  return k;
}

WinogradAxis untransformed(const AxisGeometry& axis) {
  WinogradAxis w;
  for (const auto& c : axis.classes) {
    w.kind_of_class.push_back(static_cast<int>(w.kinds.size()));
    w.first_point.push_back(0);
    w.kinds.emplace_back();
    w.kinds.back().taps = static_cast<int>(c.taps.size());
  }
  return w;
}

int64_t reach(const ResidueClass& c) { return c.taps.front().offset - c.taps.back().offset; }

}  // namespace

bool winograd_axis(const AxisGeometry& axis, Transform transform, WinogradAxis* out) {
  if (transform == Transform::kNone) {
    *out = untransformed(axis);
    return true;
  }
  WinogradAxis w;
  size_t most = 0;
  bool adjoining = axis.offsets.size() > 1 && (axis.aligned || transform == Transform::kLarge);
  for (const auto& c : axis.classes) {
    most = std::max(most, c.taps.size());
    adjoining = adjoining && !c.taps.empty() && (axis.aligned || reach(c) == static_cast<int64_t>(c.taps.size()) - 1);
  }
  if (!adjoining || most < 2) return false;
  w.plain = false;
  w.most_taps = static_cast<int64_t>(most);
  w.spacing = axis.aligned ? axis.offsets[1] - axis.offsets[0] : 1;
  if (w.spacing > kMostSpacing) return false;
  const int group = most == 3 ? 3 : 2;
  w.groups = ceil_div(w.most_taps, group);
  w.sliding = w.groups > 1 || w.spacing > 1;
  const bool large = transform == Transform::kLarge;
  if (large && w.sliding) return false;
  w.step = large ? 4 : group == 3 ? 2 : 3;
  w.points = 0;
  for (const auto& c : axis.classes) {
    const int taps = w.groups > 1 ? group : static_cast<int>(c.taps.size());
    const int first = w.sliding ? 0 : static_cast<int>(c.taps.back().offset - axis.offsets.front());
    auto same = std::find_if(w.kinds.begin(), w.kinds.end(),
                             [&](const WinogradKind& k) { return k.taps == taps && k.first == first; });
    if (same == w.kinds.end()) {
      w.first_point.push_back(w.points);
      w.kinds.push_back(kind(taps, first, w.step));
      w.points += w.kinds.back().alpha;
      w.window = std::max(w.window, first + w.kinds.back().alpha);
      same = w.kinds.end() - 1;
    }
    w.kind_of_class.push_back(static_cast<int>(same - w.kinds.begin()));
  }
  *out = w;
  return true;
}

}  // namespace ort_tconv
