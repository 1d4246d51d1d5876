// Transposed convolution as plain loop nests, the way one would write it down: for benchmarks/paper.py, which
// compiles this file with -O2 and compares method with method, without any tuning on either side. And for
// bench_weights.py a loop that only reads.
//
// float32, two spatial axes, batch 1, one group. Weights come prepared, flipped and with output channels first,
// since a network's weights are constants. Rows of the output are divided among threads.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

namespace {

struct Sides { int64_t h, w; };

// Calls body(first, last) for equal parts of 0 .. count-1, each on a thread of its own.
template <class Body>
void in_parallel(int64_t count, int64_t threads, const Body& body) {
  threads = std::max<int64_t>(1, std::min(count, threads));
  std::vector<std::thread> others;
  for (int64_t i = 1; i < threads; i++) others.emplace_back(body, count * i / threads, count * (i + 1) / threads);
  body(0, count / threads);
  for (std::thread& thread : others) thread.join();
}

// Copies x [c, in] into zeros [c, to], element (i, j) to (begin.h + step.h * i, begin.w + step.w * j).
void spread(const float* x, int64_t c, Sides in, Sides step, Sides begin, Sides to, float* out, int64_t threads) {
  in_parallel(c, threads, [=](int64_t first, int64_t last) {
    for (int64_t ch = first; ch < last; ch++) {
      float* plane = out + ch * to.h * to.w;
      std::memset(plane, 0, sizeof(float) * to.h * to.w);
      for (int64_t i = 0; i < in.h; i++)
        for (int64_t j = 0; j < in.w; j++)
          plane[(begin.h + step.h * i) * to.w + begin.w + step.w * j] = x[(ch * in.h + i) * in.w + j];
    }
  });
}

}  // namespace

extern "C" {

// The conventional method: zeros between the elements of x [c, in] and around them, `expanded` [c, s*(in-1)+1+pad],
// then a convolution with the flipped kernel w [m, c, k].
void conventional(const float* x, const float* w, float* y, float* expanded, int64_t c, int64_t m, const int64_t* in,
                  const int64_t* k, const int64_t* stride, const int64_t* begin, const int64_t* sides,
                  const int64_t* out, int64_t threads) {
  spread(x, c, {in[0], in[1]}, {stride[0], stride[1]}, {begin[0], begin[1]}, {sides[0], sides[1]}, expanded, threads);
  in_parallel(m * out[0], threads, [=](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) {
      const int64_t channel = row / out[0], i = row % out[0];
      for (int64_t j = 0; j < out[1]; j++) {
        float sum = 0;
        for (int64_t ch = 0; ch < c; ch++)
          for (int64_t u = 0; u < k[0]; u++)
            for (int64_t v = 0; v < k[1]; v++)
              sum +=
                  expanded[(ch * sides[0] + i + u) * sides[1] + j + v] * w[((channel * c + ch) * k[0] + u) * k[1] + v];
        y[row * out[1] + j] = sum;
      }
    }
  });
}

// Kernel segregation as four separate convolutions, for stride s x s ones: sub-kernel (a, b), the array
// w[a * stride + b] [m, c, taps[a], taps[b]], is convolved with `padded` [c, sides], x with zeros around, and gives
// part a * stride + b of `parts` [s * s, m, rows, columns]. The parts are then interleaved. All have the same size,
// that of the largest, so that for an output whose size is no multiple of the stride some rows and columns are computed
// that y has no place for.
void segregated(const float* x, const float* const* w, float* y, float* padded, float* parts, int64_t c, int64_t m,
                const int64_t* in, const int64_t* stride, const int64_t* pad, const int64_t* begin,
                const int64_t* sides, const int64_t* taps_h, const int64_t* taps_w, const int64_t* out,
                int64_t threads) {
  spread(x, c, {in[0], in[1]}, {1, 1}, {begin[0], begin[1]}, {sides[0], sides[1]}, padded, threads);
  const int64_t rows = (out[0] + stride[0] - 1) / stride[0], columns = (out[1] + stride[1] - 1) / stride[1];
  // Part (i, j) has the outputs i, i + stride, .. of each column and j, j + stride, .. of each row.
  in_parallel(stride[0] * stride[1] * m * rows, threads, [=](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) {
      const int64_t part = row / (m * rows), channel = row / rows % m, q = row % rows;
      const int64_t i = part / stride[1] + pad[0], j = part % stride[1] + pad[1];
      const int64_t a = i % stride[0], b = j % stride[1], kh = taps_h[a], kw = taps_w[b];
      const int64_t top = q + i / stride[0] - (kh - 1) + begin[0], left = j / stride[1] - (kw - 1) + begin[1];
      const float* kernel = w[a * stride[1] + b] + channel * c * kh * kw;
      for (int64_t r = 0; r < columns; r++) {
        float sum = 0;
        for (int64_t ch = 0; ch < c; ch++)
          for (int64_t u = 0; u < kh; u++)
            for (int64_t v = 0; v < kw; v++)
              sum += padded[(ch * sides[0] + top + u) * sides[1] + left + r + v] * kernel[(ch * kh + u) * kw + v];
        parts[row * columns + r] = sum;
      }
    }
  });
  in_parallel(m * out[0], threads, [=](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) {
      const int64_t channel = row / out[0], i = row % out[0];
      for (int64_t j = 0; j < out[1]; j++) {
        const int64_t part = i % stride[0] * stride[1] + j % stride[1];
        y[row * out[1] + j] = parts[((part * m + channel) * rows + i / stride[0]) * columns + j / stride[1]];
      }
    }
  });
}

// Unified kernel segregation: the position of an output in its block of stride x stride chooses the sub-kernel, which
// meets a dense window of x. `padded` [c, sides] is x with zeros around; sub-kernel (a, b) is the array
// w[a * stride + b] [m, c, taps[a], taps[b]], and its window for output s*q - pad + a begins at padded q + first[a].
void unified(const float* x, const float* const* w, float* y, float* padded, int64_t c, int64_t m, const int64_t* in,
             const int64_t* stride, const int64_t* pad, const int64_t* begin, const int64_t* sides,
             const int64_t* taps_h, const int64_t* taps_w, const int64_t* out, int64_t threads) {
  spread(x, c, {in[0], in[1]}, {1, 1}, {begin[0], begin[1]}, {sides[0], sides[1]}, padded, threads);
  in_parallel(m * out[0], threads, [=](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) {
      const int64_t channel = row / out[0], i = row % out[0];
      const int64_t a = (i + pad[0]) % stride[0], kh = taps_h[a];
      const int64_t top = (i + pad[0]) / stride[0] - (kh - 1) + begin[0];
      for (int64_t j = 0; j < out[1]; j++) {
        const int64_t b = (j + pad[1]) % stride[1], kw = taps_w[b];
        const int64_t left = (j + pad[1]) / stride[1] - (kw - 1) + begin[1];
        const float* kernel = w[a * stride[1] + b] + channel * c * kh * kw;
        float sum = 0;
        for (int64_t ch = 0; ch < c; ch++)
          for (int64_t u = 0; u < kh; u++)
            for (int64_t v = 0; v < kw; v++)
              sum += padded[(ch * sides[0] + top + u) * sides[1] + left + v] * kernel[(ch * kh + u) * kw + v];
        y[row * out[1] + j] = sum;
      }
    }
  });
}

// Reads arrays of so many floats from end to end, a part of each on each thread.
float read_all(const float* const* arrays, int64_t n, int64_t count, int64_t threads) {
  std::atomic<float> result{0};
  in_parallel(threads, threads, [&](int64_t first, int64_t last) {
    float sums[4] = {};
    for (int64_t a = 0; a < n; a++) {
      const int64_t lines = count / 16;
      const float* const end = arrays[a] + lines * last / threads * 16;
      for (const float* line = arrays[a] + lines * first / threads * 16; line < end; line += 16)
        for (int i = 0; i < 4; i++) sums[i] += line[4 * i];  // the rest of the cache line comes along
    }
    result = sums[0] + sums[1] + sums[2] + sums[3];
  });
  return result;
}

}  // extern "C"
