#include "core/winograd.h"

#include <algorithm>

namespace ort_tconv {
namespace {

constexpr int64_t kMostSpacing = 1024;  // beyond, any tile takes too much memory

WinogradKind kind(int taps, int most) {
  WinogradKind k;
  k.taps = taps;
  k.first = most - taps;
  const int step = most == 3 ? 2 : 3;
  k.alpha = step + taps - 1;
  if (taps == 3) {
    k.input = LineMap::kInput4, k.output = LineMap::kOutput23, k.weights = LineMap::kWeights23;
  } else if (taps == 2 && most == 2) {
    k.input = LineMap::kInput4, k.output = LineMap::kOutput32, k.weights = LineMap::kWeights32;
  } else if (taps == 2) {
    k.input = LineMap::kInput3, k.output = LineMap::kOutput22, k.weights = LineMap::kWeights22;
  } else {
    k.weights = step == 3 ? LineMap::kRepeat3 : LineMap::kRepeat2;  // one product for each output
  }
  return k;
}

}  // namespace

WinogradAxis plain_axis(const AxisGeometry& axis) {
  WinogradAxis w;
  for (const auto& c : axis.classes) {
    w.kind_of_class.push_back(static_cast<int>(w.kinds.size()));
    w.first_point.push_back(0);
    w.kinds.emplace_back();
    w.kinds.back().taps = static_cast<int>(c.taps.size());
  }
  return w;
}

bool winograd_axis(const AxisGeometry& axis, WinogradAxis* out) {
  WinogradAxis w;
  size_t most = 0;
  for (const auto& c : axis.classes) most = std::max(most, c.taps.size());
  if (!axis.aligned || most < 2) return false;
  w.plain = false;
  w.most_taps = static_cast<int64_t>(most);
  w.spacing = axis.offsets[1] - axis.offsets[0];
  if (w.spacing > kMostSpacing) return false;
  const int group = most == 3 ? 3 : 2;
  w.groups = ceil_div(w.most_taps, group);
  w.sliding = w.groups > 1 || w.spacing > 1;
  w.step = group == 3 ? 2 : 3;
  w.window = w.step + group - 1;
  w.points = 0;
  for (const auto& c : axis.classes) {
    const int taps = w.groups > 1 ? group : static_cast<int>(c.taps.size());
    auto same = std::find_if(w.kinds.begin(), w.kinds.end(), [&](const WinogradKind& k) { return k.taps == taps; });
    if (same == w.kinds.end()) {
      w.first_point.push_back(w.points);
      w.kinds.push_back(kind(taps, group));
      w.points += w.kinds.back().alpha;
      same = w.kinds.end() - 1;
    }
    w.kind_of_class.push_back(static_cast<int>(same - w.kinds.begin()));
  }
  *out = w;
  return true;
}

}  // namespace ort_tconv
