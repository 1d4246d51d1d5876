// Stacked engine: all sub-kernels of all output channels are the lanes of one implicit GEMM, over the taps that they
// share: for few output channels and many residue classes, whose results are neighbours in the output.
// Lanes are ordered by [output channel][classes of the leading axes][class of the last axis].
// Packed weights: [group][block][step][chunk of channels][tap][channel][lane of the step], where a step is as many
// lanes as a GEMM takes at a time: in the order they are read.
#include "cpu/tap_sums.h"

namespace ort_tconv {
namespace {

template <class S>
class StackedEngine final : public TapSums<S> {
 public:
  using Base = TapSums<S>;
  using typename Base::T;
  using typename Base::Task;

  StackedEngine(const Problem& p, const Plan& pl, const KernelSet& set, int threads) : Base(p, pl, set, threads) {
    classes_ = static_cast<int64_t>(this->axes_.back().classes.size());
    stack_ = static_cast<int64_t>(this->sub_kernels_.size());
    step_ = this->k_.max_vectors * this->k_.lanes;
    // Any sub-kernel tells the taps: they lie in the same order in all.
    for (const auto& axis : this->axes_) ntaps_ *= static_cast<int64_t>(axis.offsets.size());
    this->layout.push_back(this->plan.channel_chunk);
    this->panel_values_ = std::min(this->plan.block, padded_lanes()) * this->cg_ * ntaps_;
    this->packed_bytes = p.group * padded_lanes() * this->cg_ * ntaps_ * this->weight_bytes_;
    this->plan.packed_bytes = static_cast<int64_t>(this->packed_bytes);
    Carver measure(nullptr);
    Scratch(*this, measure);
    this->plan.scratch_bytes = static_cast<int64_t>(measure.used());
  }

 private:
  struct Scratch {
    T *window, *acc, *row, *panel;
    typename Base::Lists lists;
    Scratch(const StackedEngine& e, Carver& c)
        : window(c.take<T>(e.window_positions_ * e.pitch_)), acc(c.take<T>(product(e.plan.tile) * e.plan.block)),
          row(c.take<T>(e.whole_rows() ? e.classes_ * e.plan.tile.back() : 0)),
          panel(e.plan.pack_in_task ? c.take<T>(e.panel_values_) : nullptr), lists(e, e.ntaps_, e.step_, c) {}
  };

  int64_t lanes() const { return this->mg_ * stack_; }
  int64_t padded_lanes() const { return round_up(lanes(), this->k_.lanes); }
  bool whole_rows() const { return joins_rows(classes_, this->k_.lanes); }

  int64_t panel_offset(int64_t g, int64_t b) const override {
    return (g * padded_lanes() + b * this->plan.block) * this->cg_ * ntaps_;
  }

  int64_t pack_panel(const void* w, int64_t g, int64_t b, T* values, Quality* quality) const override {
    const int64_t cg = this->cg_, mg = this->mg_, taps = product(this->problem.kernel);
    const int64_t first = b * this->plan.block, end = std::min(padded_lanes(), first + this->plan.block);
    // Where the weights of each lane lie in an input channel's; those of a lane that only fills up are zero.
    const int64_t m0 = first / stack_;
    std::vector<int64_t> source(static_cast<size_t>((end - first) * ntaps_), -1);
    for (int64_t lane = first; lane < std::min(end, lanes()); ++lane) {
      int64_t* const of_lane = source.data() + (lane - first) * ntaps_;
      for (int64_t t = 0; t < ntaps_; ++t)
        of_lane[t] = (lane / stack_ - m0) * taps + this->sub_kernels_[lane % stack_].taps[t];
    }
    std::vector<S> lanes_of_step(static_cast<size_t>(step_));
    for (int64_t c = 0; c < cg; ++c) {
      const S* const row = static_cast<const S*>(w) + ((g * cg + c) * mg + m0) * taps;
      const int64_t chunk = this->plan.channel_chunk, c0 = c / chunk * chunk, n = std::min(chunk, cg - c0);
      for (int64_t step = first; step < end; step += step_) {
        const int64_t width = std::min(step_, end - step);
        T* out = values + (step - first) * cg * ntaps_ + (ntaps_ * c0 + c - c0) * width;
        for (int64_t t = 0; t < ntaps_; ++t, out += n * width) {
          for (int64_t l = 0; l < width; ++l) {
            const int64_t at = source[(step - first + l) * ntaps_ + t];
            lanes_of_step[l] = at < 0 ? S{} : row[at];
          }
          this->io_.load(lanes_of_step.data(), width, out);
        }
      }
    }
    const int64_t n = (end - first) * cg * ntaps_;
    quality->finite = this->finite(values, n);
    return n;
  }

  bool run_task(int64_t index, const Weights& weights, const Tensors& t, char* memory) const override {
    const Task task = this->decode(index);
    Carver carver(memory);
    const Scratch s(*this, carver);
    this->load_window(task, t, s.window);
    typename Base::Box box{};
    for (int i = 0; i < this->d_; ++i) box.taps[i] = &this->axes_[i].classes.front().taps;
    box.positions = &this->sub_kernels_.front().offsets;
    for (int64_t b = task.block_begin; b < task.block_end; ++b) {
      if (!weights.packed && !this->task_panel(t.w, task.g, b, s.panel)) return false;
      const char* w = weights.packed ? weights.packed + panel_offset(task.g, b) * this->weight_bytes_
                                     : reinterpret_cast<const char*>(s.panel);
      const int64_t first = b * this->plan.block, end = std::min(padded_lanes(), first + this->plan.block);
      for (int64_t step = first; step < end; step += step_) {
        const int64_t width = std::min(step_, end - step);
        this->sum(box, task.extent.data(), task, s.window, w, width, s.acc + step - first, this->plan.block, s.lists);
        w += width * this->cg_ * ntaps_ * this->weight_bytes_;
      }
      this->store_stacked(task, first, std::min(lanes(), end), s.acc, whole_rows() ? s.row : nullptr,
                          [&](const T* sums, int64_t o, int64_t n, int64_t out_row, int64_t channel) {
                            this->finish_row(sums, o, n, out_row, channel, t);
                          });
    }
    return true;
  }

  int64_t classes_ = 0, stack_ = 0;  // residue classes of the last axis, and of all axes together
  int64_t step_ = 0, ntaps_ = 1;
};

}  // namespace

template <class S>
std::unique_ptr<Engine> make_stacked(const Problem& p, const Plan& plan, const KernelSet& set, int threads) {
  return std::make_unique<StackedEngine<S>>(p, plan, set, threads);
}
ORT_TCONV_INSTANTIATE(make_stacked)

}  // namespace ort_tconv
