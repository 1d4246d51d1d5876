// Direct engine: one implicit GEMM a residue class.  The window is packed once; each sub-kernel reads
// its taps as shifted views of it.
// Packed weights: [group][block][sub-kernel][chunk of channels][tap][channel][output channel of the block],
// in the order they are read.
#include "cpu/block_engine.h"

namespace ort_tconv {
namespace {

template <class S>
class DirectEngine final : public BlockEngine<S> {
 public:
  using Base = BlockEngine<S>;
  using typename Base::T;
  using typename Base::Task;

  DirectEngine(const Problem& p, const Plan& pl, const KernelSet& set, int threads) : Base(p, pl, set, threads) {
    this->layout.push_back(this->plan.channel_chunk);
    Carver measure(nullptr);
    Scratch(*this, measure);
    this->plan.scratch_bytes = static_cast<int64_t>(measure.used());
    this->packed_bytes = p.group * this->padded_channels() * p.group_in() * this->total_taps_ * sizeof(T);
    this->plan.packed_bytes = static_cast<int64_t>(this->packed_bytes);
  }

  void pack(const void* w, PackedWeights& packed) const override {
    const Problem& p = this->problem;
    const int64_t cg = p.group_in(), mg = p.group_out(), taps = product(p.kernel);
    std::vector<T> row(static_cast<size_t>(this->plan.block * taps));
    for (int64_t g = 0; g < p.group; ++g)
      for (int64_t b = 0; b < this->plan.blocks; ++b) {
        const int64_t width = this->block_width(b);
        T* dst = this->block_weights(static_cast<T*>(packed.buffer.data.get()), g, b, cg * this->total_taps_);
        std::fill(row.begin(), row.end(), T(0));
        for (int64_t c = 0; c < cg; ++c) {
          this->io_.load(static_cast<const S*>(w) + ((g * cg + c) * mg + b * this->plan.block) * taps,
                         this->block_channels(b) * taps, row.data());
          const int64_t chunk = this->plan.channel_chunk, c0 = c / chunk * chunk, n = std::min(chunk, cg - c0);
          for (const auto& sub : this->sub_kernels_) {
            const int64_t ntaps = static_cast<int64_t>(sub.taps.size());
            for (int64_t t = 0; t < ntaps; ++t) {
              T* out = dst + (sub.first_tap * cg + ntaps * c0 + t * n + c - c0) * width;
              for (int64_t m = 0; m < width; ++m) out[m] = row[m * taps + sub.taps[t]];
            }
          }
        }
      }
  }

 private:
  struct Scratch : Base::Common {
    T* acc;
    int64_t *x_offset, *acc_offset;
    Scratch(const DirectEngine& e, Carver& c) : Base::Common(e, c) {
      const int64_t pixels = product(e.plan.tile);
      acc = c.take<T>(e.plan.class_chunk * e.class_stride());
      x_offset = c.take<int64_t>(pixels);
      acc_offset = c.take<int64_t>(pixels);
    }
  };

  int64_t class_stride() const { return product(this->plan.tile) * this->plan.block; }

  void run_task(int64_t index, const PackedWeights& packed, const Tensors& t, char* memory) const override {
    const Task task = this->decode(index);
    Carver carver(memory);
    Scratch s(*this, carver);
    this->load_window(task, t, s.window);
    const int64_t width = this->plan.tile.back(), rows = product(this->plan.tile) / width;
    for (int64_t r = 0; r < rows; ++r) s.row_offset[r] = r * width * this->plan.block;
    for (int64_t i = 0; i < width; ++i) s.column_offset[i] = i * this->plan.block;

    const int64_t last_classes = static_cast<int64_t>(this->axes_.back().classes.size());
    const int64_t sub_kernels = static_cast<int64_t>(this->sub_kernels_.size());
    for (int64_t first = 0; first < sub_kernels; first += last_classes)
      for (int64_t b = task.block_begin; b < task.block_end; ++b) {
        const T* w = this->block_weights(this->values(packed), task.g, b, this->cg_ * this->total_taps_);
        for (int64_t k0 = 0; k0 < last_classes; k0 += this->plan.class_chunk) {
          const int64_t k1 = std::min(last_classes, k0 + this->plan.class_chunk);
          for (int64_t k = k0; k < k1; ++k)
            sum(this->sub_kernels_[first + k], task, b, s.acc + (k - k0) * class_stride(), w, s);
          this->store(this->sub_kernels_[first], task, t, b, k0, k1, s.acc, class_stride(), s);
        }
      }
  }

  // One sub-kernel, one block of output channels, all of the tile's pixels that the class owns.
  void sum(const SubKernel& sub, const Task& task, int64_t block, T* acc, const T* w, const Scratch& s) const {
    const int last = this->d_ - 1;
    const int64_t count = this->axes_[last].classes[sub.classes[last]].count;
    const int64_t owned = std::clamp<int64_t>(count - task.q0[last], 0, task.extent[last]);
    const int64_t width = this->block_width(block), cg = this->cg_, chunk = this->plan.channel_chunk;
    GemmArgs<T> a{};
    this->visit_rows(sub, task, [&](int64_t position, int64_t row, int64_t) {
      for (int64_t i = 0; i < owned; ++i, ++a.count) {
        s.x_offset[a.count] = (position + i) * this->pitch_;
        s.acc_offset[a.count] = s.row_offset[row] + s.column_offset[i];
      }
    });
    a.x_offset = s.x_offset;
    a.acc = acc;
    a.acc_offset = s.acc_offset;
    a.taps = sub.offsets.data();
    a.ntaps = static_cast<int64_t>(sub.taps.size());
    a.w = w + sub.first_tap * cg * width;
    for (int64_t c = 0; c == 0 || c < cg; c += chunk) {
      a.x = s.window + c;
      a.channels = std::min(chunk, cg - c);
      a.prefetch = this->plan.heavy ? a.ntaps * a.channels * width : 0;
      a.accumulate = c > 0;
      this->k_.gemm[width / this->k_.lanes](a);
      a.w += a.ntaps * a.channels * width;
    }
  }
};

}  // namespace

template <class S>
std::unique_ptr<Engine> make_direct(const Problem& p, const Plan& plan, const KernelSet& set, int threads) {
  return std::make_unique<DirectEngine<S>>(p, plan, set, threads);
}
ORT_TCONV_INSTANTIATE(make_direct)

}  // namespace ort_tconv
