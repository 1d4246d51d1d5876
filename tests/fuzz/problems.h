// What the fuzz targets of the engines share: attributes and shapes drawn together, and scratch memory that shows
// what is read before it is written.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

#include "core/problem.h"
#include "core/status.h"
#include "cpu/run.h"
#include "fuzz/values.h"

namespace ort_tconv::fuzz {

constexpr int64_t kMostMacs = 20000, kMostOutputs = 4000;

// Scratch memory full of NaN, from malloc, where the address sanitizer guards its ends.
class Serial final : public Executor {
 public:
  void parallel(int64_t n, const std::function<void(int64_t)>& fn) override {
    for (int64_t i = n; i-- > 0;) fn(i);
  }
  void* allocate(size_t bytes) override {
    void* p = std::malloc(bytes);
    if (!p) throw std::bad_alloc();
    std::memset(p, 0xFF, bytes);
    return p;
  }
  void release(void* p) override { std::free(p); }
};

struct Counts {
  const char* target;
  int64_t run = 0, refused = 0;
  explicit Counts(const char* name) : target(name) {}
  ~Counts() {
    std::fprintf(stderr, "%s: %lld cases compared, %lld refused\n", target, static_cast<long long>(run),
                 static_cast<long long>(refused));
  }
};

// One input of a target, whose run(Reader&) ends the program where results differ.
template <class Run>
int one_input(const uint8_t* data, size_t size, Counts& counts, Run run) {
  Reader reader(data, size);
  try {
    run(reader);
    ++counts.run;
  } catch (const Error&) {
    ++counts.refused;
  }
  return 0;
}

inline std::string geometry(const Attributes& a, const InputShapes& shapes) {
  return concat("x ", shapes.x, " w ", shapes.w, " group ", a.group, " strides ", a.strides, " dilations ", a.dilations,
                " pads ", a.pads, " output_padding ", a.output_padding, " output_shape ", a.output_shape, " auto_pad ",
                a.auto_pad, " activation ", a.activation);
}

// Rising, so that small changes of a byte are small changes of a case.
constexpr int64_t kChannels[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 40, 48, 63, 65, 80, 0};

inline Dims each(Reader& r, int axes, int64_t low, int64_t high) {
  Dims v;
  for (int i = 0; i < axes; ++i) v.push_back(r.between(low, high));
  return v;
}

inline int64_t volume(const Dims& v) {
  int64_t n = 1;
  for (int64_t e : v) n *= std::max<int64_t>(1, e);
  return n;
}

// Attributes of the convolution alone, and shapes of X and W that are within reach of the slow reference.
inline void draw_shapes(Reader& r, Attributes& a, InputShapes& shapes) {
  const int axes = 1 + r.pick(4);
  Dims kernel = each(r, axes, 1, axes == 1 ? 40 : axes == 2 ? 7 : 4);
  Dims in = each(r, axes, 1, axes == 1 ? 90 : axes == 2 ? 20 : 6);
  a.strides = each(r, axes, 1, axes == 1 ? 20 : 5);
  int64_t group = 1, group_in = r.one_of(kChannels), group_out = r.one_of(kChannels);
  const int given = r.byte();
  if (given & 1) a.dilations = each(r, axes, 1, 5);
  if (given & 2) group = r.between(1, 12);
  const int64_t batch = given & 4 ? r.between(0, 5) : 1;
  // Within reach of the slow reference: the largest size gives way.
  const auto macs = [&] {
    return volume(in) * volume(kernel) * group * std::max<int64_t>(1, group_in) * std::max<int64_t>(1, group_out) *
           std::max<int64_t>(1, batch);
  };
  while (macs() > kMostMacs) {
    int64_t* most = &group_in;
    for (int64_t* v : {&group_out, &group})
      if (*v > *most) most = v;
    for (auto& v : in)
      if (v > *most) most = &v;
    for (auto& v : kernel)
      if (v > *most) most = &v;
    *most = (*most + 1) / 2;
  }
  for (int i = 0; i < axes; ++i)
    while (a.strides[i] > 1 && volume(a.strides) * volume(in) * group * group_out > kMostOutputs) --a.strides[i];
  a.group = group;
  if (given & 8) {
    for (int i = 0; i < axes; ++i) {
      const int64_t dilation = a.dilations.empty() ? 1 : a.dilations[i];
      a.output_padding.push_back(r.byte() % std::max(a.strides[i], dilation));
    }
  }
  const auto full = [&](int i) {
    const int64_t dilation = a.dilations.empty() ? 1 : a.dilations[i];
    return (in[i] - 1) * a.strides[i] + (kernel[i] - 1) * dilation + 1 +
           (a.output_padding.empty() ? 0 : a.output_padding[i]);
  };
  if (given & 16)
    for (int side = 0; side < 2; ++side)
      for (int i = 0; i < axes; ++i) a.pads.push_back(r.byte() % (full(i) / 2 + 1));
  if (given & 32) {
    static const char* const kinds[] = {"SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"};
    a.auto_pad = r.one_of(kinds);
  }
  if (given & 64 && given & 128)
    for (int i = 0; i < axes; ++i) a.output_shape.push_back(r.byte() % (full(i) + 3));
  shapes.x = {batch, group * group_in};
  shapes.w = {group * group_in, group_out};
  shapes.x.insert(shapes.x.end(), in.begin(), in.end());
  shapes.w.insert(shapes.w.end(), kernel.begin(), kernel.end());
}

}  // namespace ort_tconv::fuzz
