// Base of the engines whose lanes are output channels: a channels-last window in, and results of a
// block of output channels, one short vector a pixel, out through a transpose.  Internal to cpu/.
#pragma once

#include <cstring>
#include <type_traits>
#include <vector>

#include "cpu/engine.h"

namespace ort_tconv {

template <class S>
class BlockEngine : public EngineBase<S> {
 protected:
  using Base = EngineBase<S>;
  using typename Base::T;
  using typename Base::Task;

  BlockEngine(const Problem& p, const Plan& pl, const KernelSet& set, int threads)
      : Base(p, pl, set, threads), pitch_(round_up(std::max<int64_t>(1, p.group_in()), this->k_.lanes)),
        gemm_(this->k_.gemm[static_cast<int>(p.weights)]) {
    this->weight_bytes_ = weight_bytes(p.weights, storage_tag<S>());
    this->integers = p.weights == WeightStorage::kInt8;
    for (auto& sub : this->sub_kernels_)
      for (auto& o : sub.offsets) o *= pitch_;
    this->layout.push_back(static_cast<int64_t>(p.weights));
    for (float scale : p.weight_scales) {
      int32_t bits;
      std::memcpy(&bits, &scale, sizeof bits);
      this->layout.push_back(bits);
    }
  }

  // Scratch memory of these engines.
  struct Common {
    T *window, *rows;
    int64_t *row_offset, *column_offset;  // of a result, by row and column of the tile
    int64_t* outputs;                     // the same by output along a row: classes interleaved
    int64_t outputs_of = -1;              // class stride that `outputs` is made for
    Common(const BlockEngine& e, Carver& c) {
      const Plan& p = e.plan;
      const int64_t run = p.class_chunk * p.tile.back();
      window = c.take<T>(e.window_positions_ * e.pitch_);
      rows = c.take<T>(p.block * e.channel_stride());
      outputs = c.take<int64_t>(run);
      row_offset = c.take<int64_t>(product(p.tile) / p.tile.back());
      column_offset = c.take<int64_t>(p.tile.back());
    }
  };

  int64_t row_stride() const { return round_up(this->plan.class_chunk * this->plan.tile.back(), this->k_.lanes); }
  int64_t together() const {
    const int64_t row_bytes = row_stride() * static_cast<int64_t>(sizeof(T));
    return rows_together(row_bytes, this->plan.block, product(this->plan.tile) / this->plan.tile.back());
  }
  int64_t channel_stride() const { return together() * row_stride(); }
  int64_t padded_channels() const { return round_up(this->mg_, this->k_.lanes); }

  // Output channels of block b with padding to whole vectors, and without.
  int64_t block_width(int64_t b) const { return std::min(this->plan.block, padded_channels() - b * this->plan.block); }
  int64_t block_channels(int64_t b) const { return std::min(this->plan.block, this->mg_ - b * this->plan.block); }
  // Packed weights are [group][block][...]; `entries` numbers go with each output channel.
  int64_t block_offset(int64_t g, int64_t b, int64_t entries) const {
    return (g * padded_channels() + b * this->plan.block) * entries;
  }

  void load_window(const Task& task, const Tensors& t, T* window) const {
    const S* x = this->input(t, task);
    const int64_t cg = this->cg_;
    this->visit_window(
        task.q0,
        [&](int64_t position, int64_t source, int64_t n) {
          this->io_.load_channels_last(x + source, this->in_size_, n, cg, window + position * pitch_, pitch_);
        },
        [&](int64_t position, int64_t n) { std::fill_n(window + position * pitch_, n * pitch_, T(0)); });
  }

  // Input channels that are packed together: what goes to one place is then a few cache lines, and the many places that
  // are written, which lie a power of two apart, do not push each other out of the cache.
  static constexpr int64_t kTogether = 8;

  // Puts the weights of block b, kTogether input channels at a time and all of them in one chunk of `chunk` channels,
  // where where(c, &args) says for those from c on: it sets place, dst and dst_step.  Then calls placed(c, n) for n of
  // them. Clears quality->finite if one of them is NaN or Inf.
  template <class F, class G>
  void place_weights(const void* w, int64_t g, int64_t b, int64_t chunk, Quality* quality, F where, G placed) const {
    const Problem& p = this->problem;
    const int64_t cg = p.group_in(), mg = p.group_out();
    ColumnsArgs<T> a{};
    a.columns = product(p.kernel);
    a.n = block_channels(b);
    a.width = block_width(b);
    const int64_t row = a.n * a.columns, step = mg * a.columns;
    std::vector<T> converted(static_cast<size_t>(std::is_same_v<S, T> ? 0 : kTogether * row));
    const S* from = static_cast<const S*>(w) + (g * cg * mg + b * this->plan.block) * a.columns;
    a.ahead_bytes = row * static_cast<int64_t>(sizeof(S));
    a.ahead_step = step * static_cast<int64_t>(sizeof(S));
    for (int64_t c = 0; c < cg; c += a.count, from += a.count * step) {
      a.count = std::min({kTogether, cg - c, chunk - c % chunk});
      // Channels are far apart, so the processor cannot guess the next ones.
      a.ahead = c + 2 * a.count <= cg ? reinterpret_cast<const char*>(from + a.count * step) : nullptr;
      if constexpr (std::is_same_v<S, T>) {
        a.src = from;
        a.src_step = step;
      } else {
        for (int64_t i = 0; i < a.count; ++i) this->io_.load(from + i * step, row, converted.data() + i * row);
        a.src = converted.data();
        a.src_step = row;
      }
      where(c, &a);
      quality->finite &= this->k_.place_columns(a);
      placed(c, a.count);
    }
  }

  // Weights of fewer bits are converted on the way by the product that reads them, or, if it would in more passes than
  // this, once beforehand.
  static constexpr int64_t kConvertingPasses = 3;

  // Room for so many of them; none is needed for others.
  T* take_converted(int64_t n, Carver& c) const { return this->weight_bytes_ != sizeof(T) ? c.take<T>(n) : nullptr; }

  // Sets the weights of a product and returns the kernel for it: n numbers, of which each vector of output channels is
  // used in so many passes.
  auto weigh(GemmArgs<T>* a, const char* w, int64_t n, int64_t width, int64_t passes, T* converted) const {
    a->w = w;
    const auto vectors = width / this->k_.lanes;
    if (this->weight_bytes_ == sizeof(T) || passes <= kConvertingPasses) return gemm_[vectors];
    if constexpr (std::is_same_v<T, float>) {
      if (this->integers) this->set_.load_int8(reinterpret_cast<const int8_t*>(w), n, converted);
      else if (this->problem.weights == WeightStorage::kFloat16)
        this->set_.half_io.load(reinterpret_cast<const Half*>(w), n, converted);
      else this->set_.bfloat16_io.load(reinterpret_cast<const BFloat16*>(w), n, converted);
    }
    a->w = converted;
    return this->k_.gemm[static_cast<int>(WeightStorage::kCompute)][vectors];
  }

  // Has a product that takes so many steps, a channel of a tap and a pass each, fetch the bytes from `next` on.
  static void fetch(GemmArgs<T>* a, const char* next, int64_t bytes, int64_t steps) {
    a->ahead = next;
    a->ahead_part = bytes / kFetchStreams;
    a->ahead_step = ceil_div(bytes, steps * kFetchStreams);
  }

  // Interleaves classes k0 .. k1-1 of the last axis and writes whole output rows.  The result of class
  // k at row r, column i of the tile is at acc + (k - k0)*class_stride + row_offset[r] + column_offset[i]; all are 0 if
  // acc is null.
  void store(const SubKernel& lead, const Task& task, const Tensors& t, int64_t block, int64_t k0, int64_t k1,
             const T* acc, int64_t class_stride, Common& s) const {
    const int last = this->d_ - 1;
    const auto& axis = this->axes_[last];
    const int64_t classes = k1 - k0, n = task.extent[last] * classes, stride = channel_stride();
    const bool whole = classes == static_cast<int64_t>(axis.classes.size());
    const int64_t o0 = axis.output(static_cast<int>(k0), task.q0[last]);
    // Classes with one output less leave the row's last columns unset: they are not written either.
    const int64_t valid = whole ? std::min(n, axis.out - o0) : n;
    if (s.outputs_of != class_stride + k0) {
      for (int64_t i = 0, at = 0; at < n; ++i)
        for (int64_t k = 0; k < classes; ++k) s.outputs[at++] = k * class_stride + s.column_offset[i];
      s.outputs_of = class_stride + k0;
    }
    const int vectors = static_cast<int>(block_width(block) / this->k_.lanes);
    if (!acc) std::fill_n(s.rows, n, T(0));
    RowsTogether part = {{valid, 0, acc ? row_stride() : 0, 0}, whole ? together() : 1};
    const int64_t channels = block_channels(block), channel = task.g * this->mg_ + block * this->plan.block;
    const auto finish = [&](int64_t next) {
      const int64_t step = acc ? stride : 0;
      if (whole) return this->finish_channels(s.rows, step, o0, part, next, channel, channels, t);
      for (int64_t m = 0; m < channels; ++m)
        for (int64_t i = 0; i < task.extent[last]; ++i)
          this->finish_row(s.rows + m * step + i * classes, o0 + i * axis.stride, classes, part.first, channel + m, t);
    };
    this->visit_rows(lead, task, [&](int64_t, int64_t row, int64_t out_row) {
      T* const to = s.rows + part.add(out_row, finish) * row_stride();
      if (acc) this->k_.transpose(acc + s.row_offset[row], s.outputs, valid, vectors, to, stride);
    });
    if (part.rows.count > 0) finish(this->rows_after(part));
  }

  int64_t pitch_;                            // of a window position: channels rounded up to whole vectors
  void (*const* gemm_)(const GemmArgs<T>&);  // by vectors
};

}  // namespace ort_tconv
