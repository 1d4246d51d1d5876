// Direct engine: one implicit GEMM a residue class.  The window is packed once; each sub-kernel reads
// its taps as shifted views of it.
// Packed weights: [group][block][sub-kernel][chunk of channels][tap][channel][output channel of the block],
// in the order they are read.
#include "cpu/tap_sums.h"

namespace ort_tconv {
namespace {

template <class S>
class DirectEngine final : public TapSums<S> {
 public:
  using Base = TapSums<S>;
  using typename Base::T;
  using typename Base::Task;

  DirectEngine(const Problem& p, const Plan& pl, const KernelSet& set, int threads) : Base(p, pl, set, threads) {
    this->layout.push_back(this->plan.channel_chunk);
    for (const auto& sub : this->sub_kernels_) most_taps_ = std::max(most_taps_, static_cast<int64_t>(sub.taps.size()));
    this->panel_values_ = this->plan.block * p.group_in() * this->total_taps_;
    this->packed_bytes = p.group * this->padded_channels() * p.group_in() * this->total_taps_ * this->weight_bytes_;
    this->plan.packed_bytes = static_cast<int64_t>(this->packed_bytes);
    Carver measure(nullptr);
    Scratch(*this, measure);
    this->plan.scratch_bytes = static_cast<int64_t>(measure.used());
  }

 private:
  int64_t panel_offset(int64_t g, int64_t b) const override {
    return this->block_offset(g, b, this->cg_ * this->total_taps_);
  }

  int64_t pack_panel(const void* w, int64_t g, int64_t b, T* values, Quality* quality) const override {
    const int64_t cg = this->cg_, width = this->block_width(b), chunk = this->plan.channel_chunk;
    std::vector<int64_t> place(static_cast<size_t>(product(this->problem.kernel)), -1);  // of each tap
    this->place_weights(
        w, g, b, chunk, quality,
        [&](int64_t c, ColumnsArgs<T>* a) {
          const int64_t c0 = c / chunk * chunk, in_chunk = std::min(chunk, cg - c0);
          for (const auto& sub : this->sub_kernels_)
            for (int64_t t = 0, ntaps = static_cast<int64_t>(sub.taps.size()); t < ntaps; ++t)
              place[sub.taps[t]] = (sub.first_tap * cg + ntaps * c0 + t * in_chunk + c - c0) * width;
          a->place = place.data();
          a->dst = values;
          a->dst_step = width;
        },
        [](int64_t, int64_t) {});
    return width * cg * this->total_taps_;
  }

  struct Scratch : Base::Common {
    T *acc, *panel;
    typename Base::Lists lists;
    Scratch(const DirectEngine& e, Carver& c)
        : Base::Common(e, c), acc(c.take<T>(e.plan.class_chunk * e.class_stride())),
          panel(e.plan.pack_in_task ? c.take<T>(e.panel_values_) : nullptr), lists(e, e.most_taps_, e.plan.block, c) {}
  };

  int64_t class_stride() const { return product(this->plan.tile) * this->plan.block; }

  bool run_task(int64_t index, const Weights& weights, const Tensors& t, char* memory) const override {
    const Task task = this->decode(index);
    Carver carver(memory);
    Scratch s(*this, carver);
    this->load_window(task, t, s.window);
    const int64_t width = this->plan.tile.back(), rows = product(this->plan.tile) / width;
    for (int64_t r = 0; r < rows; ++r) s.row_offset[r] = r * width * this->plan.block;
    for (int64_t i = 0; i < width; ++i) s.column_offset[i] = i * this->plan.block;

    const int64_t last_classes = static_cast<int64_t>(this->axes_.back().classes.size());
    const int64_t sub_kernels = static_cast<int64_t>(this->sub_kernels_.size());
    for (int64_t b = task.block_begin; b < task.block_end; ++b) {
      if (!weights.packed && !this->task_panel(t.w, task.g, b, s.panel)) return false;
      const char* w = weights.packed ? weights.packed + panel_offset(task.g, b) * this->weight_bytes_
                                     : reinterpret_cast<const char*>(s.panel);
      for (int64_t first = 0; first < sub_kernels; first += last_classes)
        for (int64_t k0 = 0; k0 < last_classes; k0 += this->plan.class_chunk) {
          const int64_t k1 = std::min(last_classes, k0 + this->plan.class_chunk);
          bool any = false;  // sums, or rows of zeros alone
          for (int64_t k = k0; k < k1; ++k) any = any || !this->sub_kernels_[first + k].taps.empty();
          for (int64_t k = k0; k < k1 && any; ++k)
            sum_class(this->sub_kernels_[first + k], task, b, s.acc + (k - k0) * class_stride(), w, s);
          this->store(this->sub_kernels_[first], task, t, b, k0, k1, any ? s.acc : nullptr, class_stride(), s);
        }
    }
    return true;
  }

  // One sub-kernel, one block of output channels, all of the tile's pixels that the class owns.
  void sum_class(const SubKernel& sub, const Task& task, int64_t block, T* acc, const char* w, const Scratch& s) const {
    if (sub.taps.empty()) {
      std::fill_n(acc, class_stride(), T(0));
      return;
    }
    typename Base::Box box{};
    int64_t owned[1 + kMaxSpatial];
    for (int i = 0; i < this->d_; ++i) {
      const ResidueClass& c = this->axes_[i].classes[sub.classes[i]];
      box.taps[i] = &c.taps;
      owned[i] = std::clamp<int64_t>(c.count - task.q0[i], 0, task.extent[i]);
    }
    box.positions = &sub.offsets;
    const int64_t width = this->block_width(block);
    w += sub.first_tap * this->cg_ * width * this->weight_bytes_;
    this->sum(box, owned, task, s.window, w, width, acc, this->plan.block, s.lists);
  }

  int64_t most_taps_ = 0;
};

}  // namespace

template <class S>
std::unique_ptr<Engine> make_direct(const Problem& p, const Plan& plan, const KernelSet& set, int threads) {
  return std::make_unique<DirectEngine<S>>(p, plan, set, threads);
}
ORT_TCONV_INSTANTIATE(make_direct)

}  // namespace ort_tconv
