#include "ort/provider/margin.h"

#include <algorithm>
#include <cstring>

#include "ort/provider/weights.h"

namespace ort_tconv::provider {

Dims extended(Dims shape, const Site::Margin& margin) {
  for (size_t i = 0; i < std::min(shape.size(), margin.begins.size()); ++i)
    if (shape[i] >= 0) shape[i] += margin.begins[i] + margin.ends[i];
  return shape;
}

namespace {

// Writes the part of y that lies at `outer`, coordinates along the first axes, and returns its end.
struct Extension {
  const Dims& shape;
  const Site::Margin& margin;
  int64_t width;  // bytes of an element
  const char* one;

  // `x` is null where y holds ones.
  char* write(size_t axis, const char* x, char* y) const {
    if (axis == shape.size()) {
      std::memcpy(y, x ? x : one, static_cast<size_t>(width));
      return y + width;
    }
    int64_t stride = width;
    for (size_t i = axis + 1; i < shape.size(); ++i) stride *= shape[i];
    const int64_t begin = margin.begins[axis], size = shape[axis], total = begin + size + margin.ends[axis];
    if (axis + 1 == shape.size() && x) {  // a row: most of it is copied as it is
      for (int64_t i = 0; i < begin; ++i) y = write(axis + 1, margin.edge ? x : nullptr, y);
      std::memcpy(y, x, static_cast<size_t>(size * width));
      y += size * width;
      for (int64_t i = 0; i < margin.ends[axis]; ++i)
        y = write(axis + 1, margin.edge ? x + (size - 1) * width : nullptr, y);
      return y;
    }
    for (int64_t i = 0; i < total; ++i) {
      const bool inside = i >= begin && i < begin + size;
      const int64_t nearest = std::clamp<int64_t>(i - begin, 0, size - 1);
      y = write(axis + 1, x && (inside || margin.edge) ? x + nearest * stride : nullptr, y);
    }
    return y;
  }
};

}  // namespace

void extend(const void* x, const Dims& shape, const Site::Margin& margin, DType dtype, void* y, Executor& executor) {
  const Dims all = extended(shape, margin);
  if (std::find(all.begin(), all.end(), 0) != all.end() || std::find(shape.begin(), shape.end(), 0) != shape.end())
    return;
  const auto one = rounded({1.0}, dtype);
  const Extension extension{shape, margin, storage_bytes(dtype), static_cast<const char*>(one.get())};
  int64_t from = extension.width, to = extension.width;  // bytes of an image of one channel
  for (size_t i = 2; i < shape.size(); ++i) {
    from *= shape[i];
    to *= all[i];
  }
  // Batch and channels get no copies of an edge, only whole channels of ones.
  executor.parallel(all[0] * all[1], [&](int64_t image) {
    const int64_t n = image / all[1], c = image % all[1];
    const char* const source = static_cast<const char*>(x) + (n * shape[1] + c) * from;
    extension.write(2, c < shape[1] ? source : nullptr, static_cast<char*>(y) + image * to);
  });
}

}  // namespace ort_tconv::provider
