#include "ort/provider/site.h"

#include <algorithm>

namespace ort_tconv::provider {

bool Site::Margin::any() const {
  const auto some = [](const Dims& v) { return std::any_of(v.begin(), v.end(), [](int64_t n) { return n > 0; }); };
  return some(begins) || some(ends);
}

}  // namespace ort_tconv::provider
