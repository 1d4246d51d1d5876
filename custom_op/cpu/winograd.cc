// Winograd engine: every tile of the input window is transformed once for all sub-kernels that read it so; each
// point of the transform domain is a GEMM over the input channels; the products of each sub-kernel are
// transformed back and leave through the same interleaving store as the direct engine's sums.
// An axis that is not transformed keeps its taps: the GEMM sums them over shifted views of the transformed
// input, as the direct engine does over the window.
// Packed weights: [group][block][leading classes][product][tap][channel][output channel of the block].
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "cpu/block_engine.h"
#include "cpu/winograd_transforms.h"

namespace ort_tconv {
namespace {

// Inputs or weights beyond this are summed tap by tap: products of two, and the transforms' sums of them, might
// overflow where the sums of the method itself do not.
constexpr float kLimit = 1e12f;
// As are inputs some of which are beyond kLarge and 2^kSpread times as large as more than one in kFew of the others:
// the transforms of large values leave their rounding errors in outputs that do not read them, those of tiles beside a
// region that is masked by 1e9.  Of normally distributed values one in 300 is so small beside the largest.
constexpr float kLarge = 4096;
template <class T> constexpr int kSpread = std::numeric_limits<T>::digits - 14;
constexpr int64_t kFew = 128;
// Channels of a tile, and results, that are transformed at a time: the lines between the axes stay in L1.
constexpr int64_t kChannelsPerPass = 128;
constexpr int64_t kResultsPerPass = 256;
// Products summed one after the other, where the transforms of large tiles enlarge the errors of sums.
constexpr int64_t kMostSummedLarge = 128;
// Input channels whose original weights are packed together where a tile is summed from those.
constexpr int64_t kOriginalChannels = 32;

template <class S>
class WinogradEngine final : public BlockEngine<S> {
 public:
  using Base = BlockEngine<S>;
  using typename Base::T;
  using typename Base::Task;
  using Form = WinogradTransforms::Form;
  using Product = WinogradTransforms::Product;

  WinogradEngine(const Problem& p, const Plan& pl, const KernelSet& set, int threads)
      : Base(p, pl, set, threads), w_(this->axes_, this->winograd_, this->window_, this->window_stride_,
                                      this->plan.tile, this->sub_kernels_, this->pitch_, 64 / sizeof(T)) {
    for (Transform t : this->plan.transform) this->layout.push_back(static_cast<int64_t>(t));
    kept_ = std::all_of(w_.forms.begin(), w_.forms.end(),
                        [](const Form& form) { return form.sources.empty() || !form.untransformed.empty(); });
    const auto& transform = this->plan.transform;
    if (std::count(transform.begin(), transform.end(), Transform::kLarge) > 0) most_summed_ = kMostSummedLarge;
    for (const SubKernel& sub : this->sub_kernels_)
      most_taps_ = std::max(most_taps_, static_cast<int64_t>(sub.taps.size()));
    Carver measure(nullptr);
    Scratch(*this, measure);
    this->plan.scratch_bytes = static_cast<int64_t>(measure.used());
    this->panel_values_ = this->plan.block * p.group_in() * w_.total_products;
    this->packed_bytes = p.group * this->padded_channels() * p.group_in() * w_.total_products * this->weight_bytes_;
    this->plan.packed_bytes = static_cast<int64_t>(this->packed_bytes);
  }

 private:
  int64_t panel_offset(int64_t g, int64_t m) const override {
    return this->block_offset(g, m, this->cg_ * w_.total_products);
  }

  bool reads_original(const Quality& quality) const override { return !kept_ || !quality.complete; }

  int64_t pack_panel(const void* w, int64_t g, int64_t b, T* dst, Quality* quality) const override {
    const int64_t cg = this->cg_, width = this->block_width(b), taps = product(this->problem.kernel);
    const int64_t most = this->kTogether * width;
    // Of some input channels: each tap's weights, the taps of a sub-kernel, its weights, what lies between the axes,
    // and below what a transformed weight is 0.
    std::vector<T> memory(static_cast<size_t>(most * (taps + 2 * w_.max_weights + 2 * w_.pass_lines + 1)));
    T *const by_tap = memory.data(), *const own = by_tap + taps * most, *const weights = own + w_.max_weights * most,
             *const pass = weights + w_.max_weights * most;
    T* const least = pass + 2 * w_.pass_lines * most;
    std::vector<int64_t> place;
    for (int64_t t = 0; t < taps; ++t) place.push_back(t * most);
    const auto transform = [&](int64_t c, int64_t together) {
      const int64_t n = together * width;
      find_negligible(by_tap, most, taps, n, least);
      for (const auto& group : w_.groups)
        for (int64_t k = 0; k < w_.last_classes; ++k) {
          const Form& form = w_.forms[group.first + k];
          for (size_t i = 0; i < form.sources.size(); ++i) {
            if (form.sources[i] < 0) std::fill_n(own + i * most, n, T(0));
            else std::copy_n(by_tap + form.sources[i] * most, n, own + i * most);
          }
          if (!form.sources.empty())
            run(form.steps->weights, {{own, most}, {pass, most}, {pass + w_.pass_lines * most, most}, {weights, most}},
                n);
          const int64_t ntaps = static_cast<int64_t>(form.taps.size());
          for (const Product& product : group.products) {
            if (product.last_class != k) continue;
            for (int64_t t = 0; t < ntaps; ++t) {
              const T* from = weights + form.weight[product.class_point * ntaps + t] * most;
              T* to = dst + ((product.first_tap + t) * cg + c) * width;
              for (int64_t i = 0; i < n; ++i)
                to[i] = std::abs(from[i]) < least[i] ? std::copysign(T(0), from[i]) : from[i];
              // Bit by bit: in a session that treats subnormal numbers as 0 they would compare as equal to it.
              quality->complete &= std::memcmp(to, from, static_cast<size_t>(n) * sizeof(T)) == 0;
            }
          }
        }
    };
    this->place_weights(
        w, g, b, cg, quality,
        [&](int64_t, ColumnsArgs<T>* a) {
          a->place = place.data();
          a->dst = by_tap;
          a->dst_step = width;
        },
        transform);
    const int64_t n = width * cg * w_.total_products;
    // What is packed counts: sums of finite weights may not be.
    quality->regular = this->k_.within(dst, n, kLimit);
    quality->finite = quality->regular || this->finite(dst, n);
    return n;
  }

  // Whether products of these inputs' transforms are as good as products of the inputs.
  bool is_even(const T* x, int64_t n) const {
    if (this->k_.within(x, n, T(kLarge))) return true;
    if (!this->k_.within(x, n, T(kLimit))) return false;
    T largest = 0;
    for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::abs(x[i]));
    const T least = std::ldexp(largest, -kSpread<T>);
    int64_t small = 0, others = 0;  // zeros do not count
    for (int64_t i = 0; i < n; ++i) {
      small += x[i] != 0 && std::abs(x[i]) < least;
      others += x[i] != 0;
    }
    return small * kFew <= others;
  }

  void run(const std::vector<PlaneStep>& steps, const Place<T> (&places)[4], int64_t n) const {
    run_steps(steps, this->k_.planes, places, n);
  }

  // Below what a transformed weight of each input and output channel is 0.  Processors are many times slower on
  // subnormal numbers, which the transform's factors may make of weights that are not; beside weights from
  // 2^24 times the smallest normal number on they do not count.
  static void find_negligible(const T* by_tap, int64_t stride, int64_t taps, int64_t n, T* least) {
    constexpr T kSmallest = std::numeric_limits<T>::min();
    std::fill_n(least, n, T(0));
    for (int64_t t = 0; t < taps; ++t)
      for (int64_t i = 0; i < n; ++i) least[i] = std::max(least[i], std::abs(by_tap[t * stride + i]));
    for (int64_t i = 0; i < n; ++i) least[i] = least[i] >= kSmallest * T(1 << 24) ? kSmallest : T(0);
  }

  struct Scratch : Base::Common {
    T *points, *products, *sums, *pass, *converted, *originals;
    int64_t *x_offset, *acc_offset, *pixel_offset, *place;
    Scratch(const WinogradEngine& e, Carver& c) : Base::Common(e, c) {
      const int64_t tiles = e.w_.full_tiles, block = e.plan.block;
      points = c.take<T>(e.w_.points * e.w_.point_stride);
      products = c.take<T>(e.w_.last_classes * e.w_.max_class_points * e.w_.staggered(tiles * block));
      sums = c.take<T>(e.w_.last_classes * e.w_.places * e.w_.staggered(tiles * block));
      pass = c.take<T>(2 * e.w_.pass_lines * std::max(kChannelsPerPass, kResultsPerPass));
      converted = e.take_converted(e.w_.most_plain_taps * e.cg_ * block, c);
      originals = c.take<T>(e.most_taps_ * std::min(kOriginalChannels, e.cg_) * block);
      place = c.take<int64_t>(product(e.problem.kernel));
      x_offset = c.take<int64_t>(tiles);
      acc_offset = c.take<int64_t>(tiles);
      pixel_offset = c.take<int64_t>(e.plan.tile.back());
    }
  };

  bool run_task(int64_t index, const Weights& weights, const Tensors& t, char* memory) const override {
    const Task task = this->decode(index);
    Carver carver(memory);
    Scratch s(*this, carver);
    const Dims tiles = w_.tiles(task.extent);
    const int64_t count = product(tiles);

    this->load_window(task, t, s.window);
    const bool regular = weights.regular && is_even(s.window, this->window_positions_ * this->pitch_);
    int64_t located = 0;  // width of the blocks that the offsets in scratch are for
    for (size_t n = 0; n < w_.inputs.size(); ++n) {
      const auto& input = w_.inputs[n];
      if (regular) transform_input(input, task, tiles, s);
      for (int64_t b = task.block_begin; b < task.block_end; ++b) {
        const int64_t width = this->block_width(b), line = w_.staggered(count * width);
        if (width != located) {
          w_.locate(task.extent, tiles, line, width, s.x_offset, s.acc_offset, s.row_offset, s.column_offset);
          located = width;
          s.outputs_of = -1;  // made for other columns
        }
        const bool more = b + 1 < task.block_end;
        const char* ahead = first_weights(more ? input : w_.inputs[(n + 1) % w_.inputs.size()], task, weights,
                                          more ? b + 1 : task.block_begin);
        for (int64_t i = input.first_group; i < input.end_group; ++i) {
          const auto& group = w_.groups[i];
          if (regular) multiply(group, task, count, weights, b, line, i + 1 == input.end_group ? ahead : nullptr, s);
          store_group(group, task, weights, t, b, regular ? count : 0, line, s);
        }
      }
    }
    return true;
  }

  // Writes the outputs of a group, from its `count` products, or, if that is 0, summed tap by tap.
  void store_group(const WinogradTransforms::Group& group, const Task& task, const Weights& weights, const Tensors& t,
                   int64_t block, int64_t count, int64_t line, Scratch& s) const {
    const int64_t class_stride = w_.places * line;
    for (int64_t k = 0; k < w_.last_classes; ++k) {
      T* sums = s.sums + k * class_stride;
      if (count > 0)
        transform_output(*w_.forms[group.first + k].steps, s.products + k * w_.max_class_points * line, sums, line,
                         count * this->block_width(block), s.pass);
      else sum_taps(group.first + k, task, weights, t, block, sums, s);
    }
    this->store(this->sub_kernels_[group.first], task, t, block, 0, w_.last_classes, s.sums, class_stride, s);
  }

  // Those of a block that the first product with this input takes.
  const char* first_weights(const WinogradTransforms::Input& input, const Task& task, const Weights& weights,
                            int64_t block) const {
    const int64_t first = w_.groups[input.first_group].products.front().first_tap;
    const int64_t before = panel_offset(task.g, block) + first * this->cg_ * this->block_width(block);
    return weights.packed + before * this->weight_bytes_;
  }

  // products[class of the last axis][point][tile][output channel] of a group.  The weights at `ahead` are those of the
  // next group, if they do not follow this one's.
  void multiply(const WinogradTransforms::Group& group, const Task& task, int64_t count, const Weights& weights,
                int64_t block, int64_t line, const char* ahead, const Scratch& s) const {
    const int64_t cg = this->cg_, width = this->block_width(block);
    const char* w = weights.packed + panel_offset(task.g, block) * this->weight_bytes_;
    GemmArgs<T> a{};
    a.x_offset = s.x_offset;
    a.acc_offset = s.acc_offset;
    a.channels = cg;
    a.count = count;
    a.most_summed = most_summed_;
    for (const Product& p : group.products) {
      const Form& form = w_.forms[group.first + p.last_class];
      a.taps = form.taps.data();
      a.ntaps = static_cast<int64_t>(form.taps.size());
      a.x = s.points + p.point * w_.point_stride;
      const char* product = w + p.first_tap * cg * width * this->weight_bytes_;
      const int64_t steps = a.ntaps * cg;
      const auto gemm = this->weigh(&a, product, steps * width, width, gemm_passes(count), s.converted);
      const int64_t bytes = steps * width * this->weight_bytes_;
      const char* next = ahead && &p == &group.products.back() ? ahead : product + bytes;
      if (this->plan.fetch && steps > 0) this->fetch(&a, next, bytes, steps * gemm_passes(count));
      a.acc = s.products + (p.last_class * w_.max_class_points + p.class_point) * line;
      gemm(a);
    }
  }

  // The sums of one sub-kernel over its taps, for tiles that hold NaN, Inf or values near overflow, which a transform
  // would spread to neighbours they do not reach.
  void sum_taps(int64_t which, const Task& task, const Weights& weights, const Tensors& t, int64_t block, T* sums,
                const Scratch& s) const {
    const SubKernel& sub = this->sub_kernels_[which];
    for (int64_t i = 0; i < task.extent.back(); ++i) s.pixel_offset[i] = i * this->pitch_;
    GemmArgs<T> a{};
    a.x_offset = s.pixel_offset;
    a.acc_offset = s.column_offset;
    a.channels = this->cg_;
    a.count = task.extent.back();
    a.taps = sub.offsets.data();
    a.ntaps = static_cast<int64_t>(sub.offsets.size());
    if (reads_original(weights)) return sum_originals(sub, task, t, block, a, sums, s);
    a.panels = w_.forms[which].untransformed.data();
    const char* const panel = weights.packed + panel_offset(task.g, block) * this->weight_bytes_;
    const auto gemm = this->weigh(&a, panel, 0, this->block_width(block), 1, nullptr);
    sum_rows(sub, task, 0, a, gemm, sums, s);
  }

  // The same from W, a sub-kernel's weights of some input channels packed at a time.
  void sum_originals(const SubKernel& sub, const Task& task, const Tensors& t, int64_t block, GemmArgs<T> a, T* sums,
                     const Scratch& s) const {
    const int64_t cg = this->cg_, width = this->block_width(block);
    const auto gemm = this->k_.gemm[static_cast<int>(WeightStorage::kCompute)][width / this->k_.lanes];
    a.w = s.originals;
    Quality quality;
    this->place_weights(
        t.w, task.g, block, kOriginalChannels, &quality,
        [&](int64_t c, ColumnsArgs<T>* columns) {
          const int64_t first = c % kOriginalChannels;
          if (first == 0) {
            a.channels = std::min(kOriginalChannels, cg - c);
            std::fill_n(s.place, columns->columns, int64_t{-1});
            for (size_t i = 0; i < sub.taps.size(); ++i)
              s.place[sub.taps[i]] = static_cast<int64_t>(i) * a.channels * width;
          }
          columns->place = s.place;
          columns->dst = s.originals + first * width;
          columns->dst_step = width;
        },
        [&](int64_t c, int64_t n) {
          if (c % kOriginalChannels + n < a.channels) return;
          const int64_t first = c + n - a.channels;
          a.accumulate = first > 0;
          sum_rows(sub, task, first, a, gemm, sums, s);
        });
  }

  // Products of each row of the tile, from input channel `first` on.
  void sum_rows(const SubKernel& sub, const Task& task, int64_t first, GemmArgs<T> a, void (*gemm)(const GemmArgs<T>&),
                T* sums, const Scratch& s) const {
    this->visit_rows(sub, task, [&](int64_t position, int64_t row, int64_t) {
      a.x = s.window + position * this->pitch_ + first;
      a.acc = sums + s.row_offset[row];
      gemm(a);
    });
  }

  // points[point][tile][channel] = (Bt x Bt x ...) window of the tile.
  void transform_input(const WinogradTransforms::Input& input, const Task& task, const Dims& tiles,
                       const Scratch& s) const {
    w_.visit_input(task.extent, tiles, [&](ptrdiff_t corner, ptrdiff_t out) {
      for (int64_t c = 0; c < this->pitch_; c += kChannelsPerPass)
        run(input.steps,
            {{s.window + corner + c, 1},
             {s.pass, kChannelsPerPass},
             {s.pass + w_.pass_lines * kChannelsPerPass, kChannelsPerPass},
             {s.points + out + c, w_.point_stride}},
            std::min(kChannelsPerPass, this->pitch_ - c));
    });
  }

  // sums[position][tile][channel] = (At x At x ...) products[point][tile][channel] of one sub-kernel.
  void transform_output(const WinogradTransforms::Steps& steps, T* products, T* sums, int64_t line, int64_t results,
                        T* pass) const {
    for (int64_t first = 0; first < results; first += kResultsPerPass)
      run(steps.output,
          {{products + first, line},
           {pass, kResultsPerPass},
           {pass + w_.pass_lines * kResultsPerPass, kResultsPerPass},
           {sums + first, line}},
          std::min(kResultsPerPass, results - first));
  }

  WinogradTransforms w_;
  int64_t most_summed_ = 0, most_taps_ = 0;
  bool kept_;  // the weights of all sub-kernels are among those that are packed
};

}  // namespace

template <class S>
std::unique_ptr<Engine> make_winograd(const Problem& p, const Plan& plan, const KernelSet& set, int threads) {
  return std::make_unique<WinogradEngine<S>>(p, plan, set, threads);
}
ORT_TCONV_INSTANTIATE(make_winograd)

}  // namespace ort_tconv
