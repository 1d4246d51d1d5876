// For few channels, depthwise above all, and for what gemm.cuh does not take (four axes and more, windows
// that no shared memory holds): a thread finds the taps that meet its output position once, and then sums
// them for one plane after another.  Neighbouring threads own neighbouring outputs, whatever their
// residue classes; inputs and weights come through the cache, and nothing is packed.
#pragma once

#include "cuda/epilogue.cuh"
#include "cuda/intrinsics.h"

namespace ort_tconv::cuda {

// The taps first_tap + j * tap_step, j = 0 .. count-1, read inputs first_in - j * dilation_step.
struct Meeting { int count, first_tap, first_in; };

TCONV_DEVICE Meeting meet(const DirectAxis& a, int output) {
  const int reach = output + a.pad;
  const int quotient = reach / a.gcd;
  if (quotient * a.gcd != reach) return {0, 0, 0};
  const int t = static_cast<int>(int64_t{quotient % a.tap_step} * a.inverse % a.tap_step);
  // Exact: t was chosen so.
  const int64_t distance = reach - int64_t{t} * a.dilation_step * a.gcd;
  if (distance < 0 || t >= a.kernel) return {0, 0, 0};
  const int in = static_cast<int>(distance / a.stride);
  const int beyond = in - (a.in - 1);
  const int begin = beyond > 0 ? (beyond + a.dilation_step - 1) / a.dilation_step : 0;
  const int last_in = in / a.dilation_step, last_tap = (a.kernel - 1 - t) / a.tap_step;
  const int last = last_in < last_tap ? last_in : last_tap;
  if (last < begin) return {0, 0, 0};
  return {last - begin + 1, t + begin * a.tap_step, in - begin * a.dilation_step};
}

template <class T, class A, int rank, int channels> class Direct {
  const DirectParams& p;
  Meeting meeting[rank];

 public:
  explicit TCONV_DEVICE Direct(const DirectParams& params) : p(params) {}

  TCONV_DEVICE void run() {
    const int64_t count = int64_t{p.batch} * p.groups * p.channel_blocks;
    for (int64_t o = int64_t{block_x()} * 256 + thread_index(); o < p.out_plane; o += int64_t{grid_x()} * 256) {
      int rest = static_cast<int>(o);
      TCONV_UNROLL
      for (int i = rank - 1; i >= 0; --i) {
        const int outer = p.axis[i].out_div(rest);
        meeting[i] = meet(p.axis[i], p.axis[i].out_div.remainder(rest, outer));
        rest = outer;
      }
      for (int64_t plane = block_y(); plane < count; plane += grid_y()) {
        const int block = static_cast<int>(plane % p.channel_blocks),
                  image_group = static_cast<int>(plane / p.channel_blocks);
        sum_plane(image_group / p.groups, image_group % p.groups, block * channels, o);
      }
    }
  }

 private:
  TCONV_DEVICE void sum_plane(int image, int group, int first, int64_t o) const {
    A sums[channels];
    TCONV_UNROLL
    for (int m = 0; m < channels; ++m) sums[m] = 0;
    const T* x = static_cast<const T*>(p.x) + (int64_t{image} * p.channels + int64_t{group} * p.group_in) * p.in_plane;
    const T* w = static_cast<const T*>(p.w) + (int64_t{group} * p.group_in * p.group_out + first) * p.taps;
    const int own = p.group_out - first < channels ? p.group_out - first : channels;
    for (int c = 0; c < p.group_in; ++c) {
      sum_axis<0>(sums, x, w, own);
      x += p.in_plane;
      w += p.group_out * p.taps;
    }
    TCONV_UNROLL
    for (int m = 0; m < channels; ++m) {
      if (m >= own) continue;
      const int channel = group * p.group_out + first + m;
      A sum[1] = {sums[m]};
      finish<true>(static_cast<T*>(p.y), (int64_t{image} * p.out_channels + channel) * p.out_plane + o, sum, 1, false,
                   p.epilogue, channel);
    }
  }

  // Adds what axis i and those within it contribute, x and w being at the coordinates of the outer ones.
  template <int i> TCONV_DEVICE void sum_axis(A (&sums)[channels], const T* x, const T* w, int own) const {
    if constexpr (i == rank) {
      const A v = A(to_float(load(x)));
      TCONV_UNROLL
      for (int m = 0; m < channels; ++m)
        if (m < own) sums[m] += v * A(to_float(load(w + m * p.taps)));
    } else {
      const DirectAxis& a = p.axis[i];
      int64_t in_stride = 1, tap_stride = 1;
      TCONV_UNROLL
      for (int k = i + 1; k < rank; ++k) in_stride *= p.axis[k].in, tap_stride *= p.axis[k].kernel;
      const Meeting& m = meeting[i];
      for (int j = 0; j < m.count; ++j)
        sum_axis<i + 1>(sums, x + (m.first_in - j * a.dilation_step) * in_stride,
                        w + (m.first_tap + j * a.tap_step) * tap_stride, own);
    }
  }
};

// `rank` axes, p.rank of them real and last; `channels` output channels a thread.
template <class T, class A, int rank, int channels> TCONV_KERNEL(256, rank > 3 ? 1 : 4) direct_kernel(DirectParams p) {
  Direct<T, A, rank, channels>(p).run();
}

}  // namespace ort_tconv::cuda
