// The definition of a transposed convolution as loops, for the references that sum its products each in their own
// arithmetic.
#pragma once

#include "core/integers.h"
#include "core/problem.h"

namespace ort_tconv {

// Calls add(x, w, y, m) once for each product of the definition: element x of X times element w of W belongs to
// element y of Y, which is in output channel m.  Each input pixel is scattered through each tap; where it lands is
// the whole geometry.
template <class Add>
void for_each_product(const Problem& p, const Add& add) {
  const int d = p.rank();
  const int64_t in = product(p.in), out = product(p.out), taps = product(p.kernel);
  const int64_t cg = p.group_in(), mg = p.group_out();
  for (int64_t i = 0; i < in; ++i) {
    for (int64_t t = 0; t < taps; ++t) {
      int64_t ri = i, rt = t, o = 0, size = 1;
      bool inside = true;
      for (int a = d - 1; a >= 0; --a) {
        const int64_t at = p.stride[a] * (ri % p.in[a]) + p.dilation[a] * (rt % p.kernel[a]) - p.pad_begin[a];
        ri /= p.in[a], rt /= p.kernel[a];
        inside = inside && at >= 0 && at < p.out[a];
        o += at * size, size *= p.out[a];
      }
      if (!inside) continue;
      for (int64_t n = 0; n < p.batch; ++n)
        for (int64_t c = 0; c < p.channels; ++c)
          for (int64_t m = 0; m < mg; ++m) {
            const int64_t channel = c / cg * mg + m;
            add((n * p.channels + c) * in + i, (c * mg + m) * taps + t, (n * p.out_channels + channel) * out + o,
                channel);
          }
    }
  }
}

}  // namespace ort_tconv
