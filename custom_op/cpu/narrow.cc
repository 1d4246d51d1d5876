// Narrow engine: lanes are positions along a row.
#include <type_traits>

#include "cpu/engine.h"

namespace ort_tconv {
namespace {

// Sub-kernels that read the same window offsets are stacked: rows (sub-kernel, output channel) of one
// small matrix.  Packed weights: [group][block][stack][chunk of up to 4 rows][tap][channel][row].

constexpr int64_t kFewChannels = 8;

template <class S>
class NarrowEngine final : public EngineBase<S> {
 public:
  using Base = EngineBase<S>;
  using typename Base::T;
  using typename Base::Task;

  NarrowEngine(const Problem& p, const Plan& pl, const KernelSet& set, int threads) : Base(p, pl, set, threads) {
    for (int i = 0; i < static_cast<int>(this->sub_kernels_.size()); ++i) {
      const auto same = std::find_if(stacks_.begin(), stacks_.end(), [&](const std::vector<int>& stack) {
        return this->sub_kernels_[stack[0]].offsets == this->sub_kernels_[i].offsets;
      });
      if (same != stacks_.end()) same->push_back(i);
      else stacks_.push_back({i});
    }
    for (const auto& stack : stacks_) {
      this->layout.push_back(-2);
      this->layout.insert(this->layout.end(), stack.begin(), stack.end());
    }
    // Rows run through the window's halo where that costs less than the last vector of each row.
    const int64_t lanes = this->k_.lanes, tw = this->plan.tile.back();
    int64_t rows = 1, end = 0;
    for (int i = 0; i < this->d_; ++i) {
      if (i < this->d_ - 1) rows *= this->plan.tile[i];
      end += (this->plan.tile[i] - 1) * this->window_stride_[i];
    }
    flat_ = (end + lanes) / lanes <= rows * ((tw + lanes - 1) / lanes);
    row_stride_ = round_up(tw, lanes);
    results_ = flat_ ? round_up(end + 1, lanes) : rows * row_stride_;
    plain_ = this->plan.tile[0] == 1;
    for (int i = 1; i < this->d_; ++i) {
      const auto& axis = this->axes_[i];
      plain_ = plain_ && axis.offsets == std::vector<int64_t>{0} && axis.domain == axis.in &&
               (i == 1 || this->plan.tile[i] == axis.in);
    }
    Carver measure(nullptr);
    Scratch(*this, measure);
    this->plan.scratch_bytes = static_cast<int64_t>(measure.used());
    this->packed_bytes =
        this->problem.group * this->problem.group_out() * this->problem.group_in() * this->total_taps_ * sizeof(T);
    this->plan.packed_bytes = static_cast<int64_t>(this->packed_bytes);
  }

  void pack(const void* w, PackedWeights& packed) const override {
    const Problem& p = this->problem;
    const int64_t cg = p.group_in(), mg = p.group_out(), taps = product(p.kernel);
    T* dst = static_cast<T*>(packed.buffer.data.get());
    for (int64_t g = 0; g < p.group; ++g)
      for (int64_t b = 0; b < this->plan.blocks; ++b)
        for (const auto& stack : stacks_)
          visit_rows_of(stack, b, [&](const Row* rows, int n) {
            const int64_t ntaps = static_cast<int64_t>(this->sub_kernels_[stack[0]].taps.size());
            for (int64_t t = 0; t < ntaps; ++t)
              for (int64_t c = 0; c < cg; ++c)
                for (int r = 0; r < n; ++r) {
                  const int64_t tap = this->sub_kernels_[rows[r].sub].taps[t];
                  const int64_t m = b * this->plan.block + rows[r].m;
                  this->io_.load(static_cast<const S*>(w) + ((g * cg + c) * mg + m) * taps + tap, 1, dst++);
                }
          });
  }

 private:
  struct Row {
    int sub;
    int64_t m;
  };  // m: within the block
  struct Window {
    const T* x = nullptr;
    int64_t channel_stride = 0;
  };

  struct Scratch {
    T *window, *acc, *row;
    const T** sources;
    WindowRun* runs;
    ptrdiff_t* taps;
    Scratch(const NarrowEngine& e, Carver& c) {
      const Plan& p = e.plan;
      window = c.take<T>(e.problem.group_in() * e.window_positions_ + e.k_.lanes);
      acc = c.take<T>(static_cast<int64_t>(e.sub_kernels_.size()) * p.block * e.results_);
      row = c.take<T>(p.class_chunk * p.tile.back());
      sources = c.take<const T*>(p.class_chunk);
      const auto& last = e.window_.back();  // a row is at most zeros, input, zeros for each piece
      runs = c.take<WindowRun>(3 * (last.dense ? 1 : last.offsets.size()) * e.window_positions_ / last.extent);
      taps = c.take<ptrdiff_t>(e.problem.group_in() < kFewChannels ? e.problem.group_in() * e.total_taps_ : 0);
    }
  };

  int64_t block_channels(int64_t b) const {
    return std::min(this->plan.block, this->problem.group_out() - b * this->plan.block);
  }

  // Calls f(rows, n) for each chunk of at most kMaxRows rows of a stack.
  template <class F>
  void visit_rows_of(const std::vector<int>& stack, int64_t block, F f) const {
    Row rows[kMaxRows];
    int n = 0;
    for (int sub : stack)
      for (int64_t m = 0; m < block_channels(block); ++m) {
        rows[n++] = {sub, m};
        if (n == kMaxRows) f(rows, n), n = 0;
      }
    if (n) f(rows, n);
  }

  T* result(const Scratch& s, int sub, int64_t m) const { return s.acc + (sub * this->plan.block + m) * results_; }

  void run_task(int64_t index, const PackedWeights& packed, const Tensors& t, char* memory) const override {
    const Task task = this->decode(index);
    Carver carver(memory);
    const Scratch s(*this, carver);
    const int64_t cg = this->problem.group_in();
    Window window = view(task, t);
    if (!window.x) {
      const S* x = this->input(t, task);
      int64_t runs = 0;
      this->visit_window(
          task.q0, [&](int64_t position, int64_t source, int64_t n) { s.runs[runs++] = {position, source, n}; },
          [&](int64_t position, int64_t n) { s.runs[runs++] = {position, -1, n}; });
      for (int64_t c = 0; c < cg; ++c)
        this->io_.load_runs(x + c * this->in_size_, s.runs, runs, s.window + c * this->window_positions_);
      std::fill_n(s.window + cg * this->window_positions_, this->k_.lanes, T(0));
      window = {s.window, this->window_positions_};
    }
    for (int64_t b = task.block_begin; b < task.block_end; ++b) {
      sum(task, b, this->values(packed), window, s);
      store(task, t, b, s);
    }
  }

  // The input itself, where it can serve as the window: no halo, no conversion, rows whole.
  Window view(const Task& task, const Tensors& t) const {
    if constexpr (std::is_same_v<S, T>) {
      if (!plain_) return {};
      const T* x = this->input(t, task) + task.q0[0] * this->in_stride_[0] + task.q0[1] * this->in_stride_[1];
      // The row kernel reads up to the next whole vector: not past the end of the input.
      const T* end = static_cast<const T*>(t.x) + this->problem.batch * this->problem.channels * this->in_size_;
      const int64_t reach = (this->problem.group_in() - 1) * this->in_size_ + this->window_positions_ + this->k_.lanes;
      if (end - x >= reach) return {x, this->in_size_};
    }
    return {};
  }

  void sum(const Task& task, int64_t b, const T* packed, const Window& window, const Scratch& s) const {
    const int last = this->d_ - 1;
    const int64_t cg = this->problem.group_in();
    const T* w = packed + (task.g * this->problem.group_out() + b * this->plan.block) * cg * this->total_taps_;
    RowsArgs<T> a;
    a.channel_stride = window.channel_stride;
    a.channels = cg;
    for (const auto& stack : stacks_) {
      const SubKernel& first = this->sub_kernels_[stack[0]];
      a.taps = first.offsets.data();
      a.ntaps = static_cast<int64_t>(first.taps.size());
      if (cg < kFewChannels) {  // one long list of taps instead of many short loops over channels
        for (int64_t t = 0; t < a.ntaps; ++t)
          for (int64_t c = 0; c < cg; ++c) s.taps[t * cg + c] = first.offsets[t] + c * window.channel_stride;
        a.taps = s.taps;
        a.ntaps *= cg;
        a.channels = 1;
      }
      visit_rows_of(stack, b, [&](const Row* rows, int n) {
        a.w = w;
        w += n * a.channels * a.ntaps;
        const auto run = [&](int64_t position, int64_t at, int64_t count) {
          a.x = window.x + position;
          a.count = count;
          for (int r = 0; r < n; ++r) a.out[r] = result(s, rows[r].sub, rows[r].m) + at;
          this->k_.rows[n](a);
        };
        if (flat_) {
          int64_t end = 0;
          for (int i = 0; i < this->d_; ++i) end += (task.extent[i] - 1) * this->window_stride_[i];
          run(0, 0, end + 1);
        } else {
          Odometer lead(Dims(task.extent.begin(), task.extent.begin() + last));
          do {
            int64_t position = 0, row = 0;
            for (int i = 0; i < last; ++i) {
              position += lead.at[i] * this->window_stride_[i];
              row = row * this->plan.tile[i] + lead.at[i];
            }
            run(position, row * row_stride_, task.extent[last]);
          } while (lead.next());
        }
      });
    }
  }

  void store(const Task& task, const Tensors& t, int64_t b, const Scratch& s) const {
    const int last = this->d_ - 1;
    const auto& axis = this->axes_[last];
    const int classes = static_cast<int>(axis.classes.size());
    const int64_t n = task.extent[last];
    for (int first = 0; first < static_cast<int>(this->sub_kernels_.size()); first += classes)
      this->visit_rows(this->sub_kernels_[first], task, [&](int64_t position, int64_t row, int64_t out_row) {
        const int64_t at = flat_ ? position : row * row_stride_;
        for (int64_t m = 0; m < block_channels(b); ++m) {
          for (int k = 0; k < classes; ++k) s.sources[k] = result(s, first + k, m) + at;
          this->k_.interleave(s.sources, classes, n, s.row);
          this->finish_row(s.row, axis.output(0, task.q0[last]), n * classes, out_row,
                           task.g * this->problem.group_out() + b * this->plan.block + m, t);
        }
      });
  }

  std::vector<std::vector<int>> stacks_;  // sub-kernels by equal offsets
  bool flat_ = false, plain_ = false;
  int64_t row_stride_ = 0, results_ = 0;
};

}  // namespace

template <class S>
std::unique_ptr<Engine> make_narrow(const Problem& p, const Plan& plan, const KernelSet& set, int threads) {
  return std::make_unique<NarrowEngine<S>>(p, plan, set, threads);
}
ORT_TCONV_INSTANTIATE(make_narrow)

}  // namespace ort_tconv
