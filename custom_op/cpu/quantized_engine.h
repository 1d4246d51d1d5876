// What the quantised engines share.  Internal to cpu/.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "core/status.h"
#include "cpu/engine.h"
#include "cpu/quantized.h"

namespace ort_tconv {

// Packed weights, signed bytes in words: those of all blocks, then the sum of each output channel in each
// sub-kernel.
class QuantizedEngine : public Tiling {
 public:
  QuantizedEngine(const Problem& p, QuantizedTypes types, const Plan& pl, const QuantizedKernels& k, int threads)
      : Tiling(p, pl, threads), types_(types), k_(k), group_(word_channels(k.form)), words_(ceil_div(cg_, group_)) {
    layout = {-2,  // no layout of other engines begins so
              static_cast<int64_t>(plan.algorithm),
              plan.block,
              k.lanes,
              static_cast<int64_t>(k.form),
              static_cast<int64_t>(types.w),
              plan.channel_chunk,
              p.channels,
              p.out_channels,
              p.group};
    for (const auto& sub : sub_kernels_) {
      layout.push_back(-1);
      layout.insert(layout.end(), sub.taps.begin(), sub.taps.end());
    }
  }
  virtual ~QuantizedEngine() = default;
  virtual void pack(const uint8_t* w, char* packed) const = 0;
  void run(const PackedWeights& packed, const Requantization& r, const Tensors& t, Executor& executor) const {
    const Call call = make_call(packed, r, t);
    if (product(problem.y_shape()) == 0) return;
    share_out(plan.tasks, plan.scratch_bytes, executor, [&](int64_t task, char* scratch) {
      run_task(decode(task), call, scratch);
      return true;
    });
  }

  std::vector<int64_t> layout;
  size_t packed_bytes = 0;

 protected:
  // What tasks need of a call.  Values of output channels are [group][padded_channels()].
  struct Call {
    const uint8_t* x;
    char* y;
    const char* weights;
    const int32_t* sums;  // [group][sub-kernel][padded_channels()]
    int32_t x_zero;       // in the form of the kernels
    bool w_zeros;         // whether any is not 0 there and meets an input
    std::vector<int32_t> w_zero, bias;
    std::vector<float> multiplier, offset;
    QuantizedEpilogue epilogue;
    std::vector<uint32_t> padding;  // words of a position where the input is its zero point
  };

  virtual void run_task(const Task& task, const Call& call, char* memory) const = 0;
  virtual int64_t padded_channels() const = 0;  // of a group

  // Bytes are turned to the kernels' form by flipping the top bit where that is of the other sign.
  uint8_t x_flip() const {
    return (types_.x == QuantizedType::kInt8) != (k_.form == WordForm::kSignedBytes) ? 0x80 : 0;
  }
  uint8_t w_flip() const { return types_.w == QuantizedType::kUint8 ? 0x80 : 0; }

  Call make_call(const PackedWeights& packed, const Requantization& r, const Tensors& t) const {
    Call c{};
    c.x = static_cast<const uint8_t*>(t.x);
    c.y = static_cast<char*>(t.y);
    c.weights = static_cast<const char*>(packed.buffer.data.get());
    c.sums = reinterpret_cast<const int32_t*>(c.weights + sums_at_);
    const uint8_t zero = static_cast<uint8_t>(r.x_zero) ^ x_flip();
    c.x_zero = k_.form == WordForm::kSignedBytes ? static_cast<int8_t>(zero) : zero;
    const int64_t padded = padded_channels();
    const size_t n = static_cast<size_t>(problem.group * padded);
    c.w_zero.assign(n, 0);
    c.bias.assign(n, 0);
    c.multiplier.assign(n, 0.f);
    c.offset.assign(n, 0.f);
    for (int64_t m = 0; m < problem.out_channels; ++m) {
      const int64_t at = m / mg_ * padded + m % mg_;
      c.w_zero[at] = static_cast<int8_t>(static_cast<uint8_t>(r.w_zero[m]) ^ w_flip());
      c.w_zeros = c.w_zeros || (cg_ > 0 && c.w_zero[at] != 0);
      c.bias[at] = r.bias[m];
      c.multiplier[at] = r.multiplier[m];
      c.offset[at] = r.offset[m];
    }
    c.epilogue = {r.low, r.high, r.y_zero};
    for (int64_t q = 0; q < words_; ++q) {
      uint32_t word = 0;
      for (int64_t k = 0; k < std::min<int64_t>(group_, cg_ - q * group_); ++k)
        word |= static_cast<uint32_t>(zero) << (32 / group_ * k);
      c.padding.push_back(word);
    }
    return c;
  }

  // The part of a sum that does not depend on the input.  With X = x - x_zero and W = w - w_zero, padding being
  // X = 0: sum of X W = sum of x w - x_zero (sum of w - n w_zero) - w_zero (sum of x), n terms each.
  int32_t start(const SubKernel& sub, int64_t channel, const Call& call, int64_t sum_at) const {
    const int64_t n = static_cast<int64_t>(sub.taps.size()) * cg_;
    const int64_t weights = call.sums[sum_at] - n * call.w_zero[channel];
    return static_cast<int32_t>(static_cast<uint32_t>(call.bias[channel] - weights * call.x_zero));
  }
  int64_t sub_kernel_count() const { return static_cast<int64_t>(sub_kernels_.size()); }
  int64_t sum_index(int64_t g, int64_t sub, int64_t channel) const {
    return (g * sub_kernel_count() + sub) * padded_channels() + channel;
  }
  void set_packed_bytes(int64_t weights) {
    sums_at_ = round_up(weights, 64);
    packed_bytes = static_cast<size_t>(sums_at_ + problem.group * sub_kernel_count() * padded_channels() * 4);
    plan.packed_bytes = static_cast<int64_t>(packed_bytes);
  }
  // Weight w[channel c of group g, output channel m of it, tap], in the kernels' form.
  int8_t weight(const uint8_t* w, int64_t g, int64_t c, int64_t m, int64_t tap) const {
    return static_cast<int8_t>(w[((g * cg_ + c) * mg_ + m) * product(problem.kernel) + tap] ^ w_flip());
  }
  void pack_sums(const uint8_t* w, char* packed) const {
    int32_t* sums = reinterpret_cast<int32_t*>(packed + sums_at_);
    std::fill_n(sums, problem.group * sub_kernel_count() * padded_channels(), 0);
    const int64_t taps = product(problem.kernel);
    for (int64_t g = 0; g < problem.group; ++g)
      for (int64_t c = 0; c < cg_; ++c)
        for (int64_t m = 0; m < mg_; ++m) {
          const uint8_t* row = w + ((g * cg_ + c) * mg_ + m) * taps;
          for (int64_t s = 0; s < sub_kernel_count(); ++s)
            for (int64_t tap : sub_kernels_[s].taps)
              sums[sum_index(g, s, m)] += static_cast<int8_t>(row[tap] ^ w_flip());
        }
  }

  const uint8_t* input(const Call& call, const Task& task) const { return call.x + task.g * cg_ * in_size_; }

  // Copies n results to outputs o .. o+n-1 of one row of a channel; parts outside the row are dropped.
  void write(const char* row, int64_t o, int64_t n, int64_t out_row, int64_t channel, const Call& call) const {
    const int64_t lo = std::max<int64_t>(0, -o), hi = std::min(n, axes_[d_ - 1].out - o);
    if (hi <= lo) return;
    const int64_t size = storage_bytes(types_.y);
    std::memcpy(call.y + (channel * out_size_ + out_row + o + lo) * size, row + lo * size,
                static_cast<size_t>((hi - lo) * size));
  }
  QuantizedTypes types_;
  const QuantizedKernels& k_;
  int64_t group_, words_;  // channels of a word, words of a position
  int64_t sums_at_ = 0;    // bytes from the packed weights to their sums
};

// Implicit GEMMs over a window with channels last.
class QuantizedProducts : public QuantizedEngine {
 protected:
  QuantizedProducts(const Problem& p, QuantizedTypes types, const Plan& pl, const QuantizedKernels& k, int threads)
      : QuantizedEngine(p, types, pl, k, threads), pitch_(round_up(std::max<int64_t>(1, cg_), 16) / group_) {
    for (auto& sub : sub_kernels_)
      for (auto& o : sub.offsets) o *= pitch_;
  }

  struct Lists {
    uint32_t* window;
    int32_t *start, *position_sums;
    int64_t *x_offset, *acc_offset;
    Lists(const QuantizedProducts& e, Carver& c) {
      window = c.take<uint32_t>(e.window_positions_ * e.pitch_);
      start = c.take<int32_t>(e.plan.block);
      position_sums = c.take<int32_t>(e.window_positions_);
      x_offset = c.take<int64_t>(product(e.plan.tile));
      acc_offset = c.take<int64_t>(product(e.plan.tile));
    }
  };

  void load_window(const Task& task, const Call& call, const Lists& s) const {
    if (cg_ == 0) return;
    const uint8_t* x = input(call, task);
    visit_window(
        task.q0,
        [&](int64_t position, int64_t source, int64_t n) {
          k_.load_channels_last(x + source, in_size_, n, cg_, x_flip(), s.window + position * pitch_, pitch_);
        },
        [&](int64_t position, int64_t n) {
          for (uint32_t* at = s.window + position * pitch_; n > 0; --n, at += pitch_)
            std::copy(call.padding.begin(), call.padding.end(), at);
        });
    if (!call.w_zeros) return;
    for (int64_t i = 0; i < window_positions_; ++i) s.position_sums[i] = k_.sum(s.window + i * pitch_, words_, 1);
  }

  // acc[s.acc_offset[i] + l] = start[l] + the sums, over the taps and all channels, for the lane's output channel, at
  // position s.x_offset[i], i < count, l < width; `zeros` are the weights' zero points of the lanes.  Packed weights:
  // [chunk of words][tap][word][lane][byte].
  void multiply(const std::vector<ptrdiff_t>& taps, int64_t count, const int8_t* w, int64_t width, const int32_t* start,
                const int32_t* zeros, const Call& call, const Lists& s, int32_t* acc) const {
    QuantizedGemmArgs a{};
    a.count = count;
    a.x_offset = s.x_offset;
    a.acc = acc;
    a.acc_offset = s.acc_offset;
    a.taps = taps.data();
    a.ntaps = static_cast<int64_t>(taps.size());
    a.w = w;
    a.start = start;
    const int64_t chunk = plan.channel_chunk;
    for (int64_t q = 0; q == 0 || q < words_; q += chunk) {
      a.x = s.window + q;
      a.words = std::min(chunk, words_ - q);
      k_.gemm[width / k_.lanes](a);
      a.w += a.ntaps * a.words * width * group_;
      a.start = nullptr;
    }
    if (!call.w_zeros) return;
    for (int64_t i = 0; i < count; ++i)
      subtract_inputs(taps, s.x_offset[i], zeros, width, s.position_sums, acc + s.acc_offset[i]);
  }

  // What the weights' zero points take from the sums of a position of the window, in words.
  void subtract_inputs(const std::vector<ptrdiff_t>& taps, int64_t position, const int32_t* zeros, int64_t width,
                       const int32_t* position_sums, int32_t* sums) const {
    uint32_t inputs = 0;
    for (ptrdiff_t tap : taps) inputs += static_cast<uint32_t>(position_sums[(position + tap) / pitch_]);
    for (int64_t l = 0; l < width; ++l)
      sums[l] = static_cast<int32_t>(static_cast<uint32_t>(sums[l]) - inputs * static_cast<uint32_t>(zeros[l]));
  }

  // Where channel c's weight of tap t, of so many, lies among those of a product for the first of `width` lanes.
  int64_t weight_at(int64_t c, int64_t t, int64_t ntaps, int64_t width) const {
    const int64_t q = c / group_, q0 = q / plan.channel_chunk * plan.channel_chunk;
    const int64_t n = std::min(plan.channel_chunk, words_ - q0);
    return (ntaps * q0 + t * n + q - q0) * width * group_ + c % group_;
  }

  int64_t pitch_;  // words of a window position
};

// Blocks of output channels, each result a short vector of them, which leave through a transpose.
class QuantizedBlocks : public QuantizedProducts {
 protected:
  using QuantizedProducts::QuantizedProducts;

  struct Results {
    int64_t *row_offset, *column_offset;  // of a result, by row and by column of the tile
    int64_t* outputs;                     // the same by output along a row: classes interleaved
    char* rows;
    Results(const QuantizedBlocks& e, Carver& c) {
      row_offset = c.take<int64_t>(product(e.plan.tile) / e.plan.tile.back());
      column_offset = c.take<int64_t>(e.plan.tile.back());
      outputs = c.take<int64_t>(e.plan.class_chunk * e.plan.tile.back());
      rows = c.take<char>(e.plan.block * e.row_stride() * storage_bytes(e.types_.y));
    }
    // For n columns, if the results of `classes` classes lie so far apart.
    void interleave(int64_t n, int64_t classes, int64_t class_stride) const {
      for (int64_t i = 0, at = 0; i < n; ++i)
        for (int64_t k = 0; k < classes; ++k) outputs[at++] = k * class_stride + column_offset[i];
    }
  };

  int64_t row_stride() const { return round_up(plan.class_chunk * plan.tile.back(), 16); }
  int64_t padded_channels() const override { return round_up(mg_, k_.lanes); }
  int64_t block_width(int64_t b) const { return std::min(plan.block, padded_channels() - b * plan.block); }
  int64_t block_channels(int64_t b) const { return std::min(plan.block, mg_ - b * plan.block); }

  // The constant parts of a sub-kernel's sums of a block.
  void starts(int64_t index, int64_t g, int64_t block, const Call& call, int32_t* out) const {
    const int64_t channel = g * padded_channels() + block * plan.block;
    for (int64_t m = 0; m < block_width(block); ++m)
      out[m] = start(sub_kernels_[index], channel + m, call, sum_index(g, index, block * plan.block + m));
  }

  // Interleaves classes k0 .. k1-1 of the last axis and writes whole output rows.
  void store(const SubKernel& lead, const Task& task, int64_t block, int64_t k0, int64_t k1, const int32_t* sums,
             const Call& call, const Results& s) const {
    const auto& axis = axes_.back();
    const int64_t columns = task.extent[d_ - 1], classes = k1 - k0, n = columns * classes, stride = row_stride();
    const bool whole = classes == static_cast<int64_t>(axis.classes.size());
    const int64_t o0 = axis.output(static_cast<int>(k0), task.q0[d_ - 1]);
    // Classes with one output less leave the row's last columns unset: they are not written either.
    const int64_t valid = whole ? std::min(n, axis.out - o0) : n;
    const int vectors = static_cast<int>(block_width(block) / k_.lanes);
    const int64_t channel = task.g * padded_channels() + block * plan.block, size = storage_bytes(types_.y);
    const float *multiplier = call.multiplier.data() + channel, *offset = call.offset.data() + channel;
    visit_rows(lead, task, [&](int64_t, int64_t row, int64_t out_row) {
      const int32_t* acc = sums + s.row_offset[row];
      if (types_.y == QuantizedType::kFloat32) {
        k_.store_floats(acc, s.outputs, valid, vectors, multiplier, offset, call.epilogue,
                        reinterpret_cast<float*>(s.rows), stride);
      } else {
        k_.store_bytes(acc, s.outputs, valid, vectors, multiplier, offset, call.epilogue,
                       reinterpret_cast<uint8_t*>(s.rows), stride);
      }
      for (int64_t m = 0; m < block_channels(block); ++m) {
        const char* results = s.rows + m * stride * size;
        const int64_t out_channel = task.g * mg_ + block * plan.block + m;
        if (whole) {
          write(results, o0, valid, out_row, out_channel, call);
        } else {
          for (int64_t i = 0; i < columns; ++i)
            write(results + i * classes * size, o0 + i * axis.stride, classes, out_row, out_channel, call);
        }
      }
    });
  }
};

std::unique_ptr<QuantizedEngine> make_quantized_winograd(const Problem& p, QuantizedTypes types, const Plan& plan,
                                                         const QuantizedKernels& k, int threads);

}  // namespace ort_tconv
