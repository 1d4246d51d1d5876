// Winograd's algorithm in integers (core/winograd.h), as the float engine's (winograd.cc), for kernels whose words hold
// 16-bit integers.  The transforms add and subtract only, but for halves among those of the weights: with weights of
// 2^h times themselves, h such axes, all is exact, and each sum is 2^h times what it has to be.
#include <algorithm>

#include "cpu/arch.h"
#include "cpu/quantized_engine.h"
#include "cpu/winograd_transforms.h"

namespace ort_tconv {
namespace {

// Channels of a tile, and results, that are transformed at a time: the lines between the axes stay in L1.
constexpr int64_t kChannelsPerPass = 256;
constexpr int64_t kResultsPerPass = 256;
constexpr int64_t kTogether = 8;  // channels whose weights are transformed at a time

// Packed weights: [group][block][leading classes][product][tap][word][output channel of the block][int16].
class QuantizedWinograd final : public QuantizedBlocks {
 public:
  QuantizedWinograd(const Problem& p, QuantizedTypes types, const Plan& pl, const QuantizedKernels& k, int threads)
      : QuantizedBlocks(p, types, pl, k, threads), float_(compiled_kernel_set(k.base).f32),
        w_(axes_, winograd_, window_, window_stride_, plan.tile, sub_kernels_, pitch_, 64 / kWordBytes) {
    for (Transform t : plan.transform) layout.push_back(static_cast<int64_t>(t));
    Carver measure(nullptr);
    Scratch(*this, measure);
    plan.scratch_bytes = static_cast<int64_t>(measure.used());
    set_packed_bytes(p.group * padded_channels() * words_ * w_.total_products * kWordBytes);
  }

  void pack(const uint8_t* w, char* packed) const override {
    std::fill_n(packed, sums_at_, 0);
    std::vector<float> memory;
    for (int64_t g = 0; g < problem.group; ++g)
      for (int64_t b = 0; b < plan.blocks; ++b)
        for (int64_t c = 0; c < cg_; c += kTogether)
          pack_channels(w, g, b, c, std::min(kTogether, cg_ - c), packed + block_at(g, b), &memory);
    pack_sums(w, packed);
  }

 private:
  static constexpr int64_t kWordBytes = 4;

  struct Scratch {
    Lists lists;
    Results results;
    uint32_t* points;
    int16_t* input_pass;
    int32_t *products, *sums, *output_pass, *zeros;
    int64_t *x_offset, *acc_offset;
    Scratch(const QuantizedWinograd& e, Carver& c) : lists(e, c), results(e, c) {
      const WinogradTransforms& w = e.w_;
      const int64_t line = w.staggered(w.full_tiles * e.plan.block);
      points = c.take<uint32_t>(w.points * w.point_stride);
      input_pass = c.take<int16_t>(2 * w.pass_lines * kChannelsPerPass);
      products = c.take<int32_t>(w.last_classes * w.max_class_points * line);
      sums = c.take<int32_t>(w.last_classes * w.places * line);
      output_pass = c.take<int32_t>(2 * w.pass_lines * kResultsPerPass);
      zeros = c.take<int32_t>(e.plan.block);
      x_offset = c.take<int64_t>(w.full_tiles);
      acc_offset = c.take<int64_t>(w.full_tiles);
    }
  };

  int64_t block_at(int64_t g, int64_t b) const {
    return (g * padded_channels() + b * plan.block) * words_ * w_.total_products * kWordBytes;
  }

  // Weights of n channels from c on, in floats, which hold them exactly.
  void pack_channels(const uint8_t* w, int64_t g, int64_t b, int64_t c, int64_t n, char* block,
                     std::vector<float>* memory) const {
    const int64_t width = block_width(b), channels = block_channels(b), most = kTogether * width;
    const int64_t taps = product(problem.kernel);
    memory->resize(static_cast<size_t>(most * (2 * w_.max_weights + 2 * w_.pass_lines)));
    float *const own = memory->data(), *const weights = own + w_.max_weights * most,
                 *const pass = weights + w_.max_weights * most;
    for (const auto& group : w_.groups)
      for (int64_t k = 0; k < w_.last_classes; ++k) {
        const auto& form = w_.forms[group.first + k];
        if (form.sources.empty()) continue;
        std::fill_n(own, static_cast<int64_t>(form.sources.size()) * most, 0.f);
        for (int64_t i = 0; i < n; ++i) {
          const uint8_t* row = w + ((g * cg_ + c + i) * mg_ + b * plan.block) * taps;
          for (size_t source = 0; source < form.sources.size(); ++source)
            if (form.sources[source] >= 0)
              for (int64_t m = 0; m < channels; ++m)
                own[source * most + i * width + m] =
                    static_cast<int8_t>(row[m * taps + form.sources[source]] ^ w_flip());
        }
        const Place<float> places[4] = {
            {own, most}, {pass, most}, {pass + w_.pass_lines * most, most}, {weights, most}};
        run_steps(form.steps->weights, float_.planes, places, most);
        const float scale = static_cast<float>(1 << form.halves);
        const int64_t ntaps = static_cast<int64_t>(form.taps.size());
        for (const auto& product : group.products) {
          if (product.last_class != k) continue;
          for (int64_t t = 0; t < ntaps; ++t) {
            const float* from = weights + form.weight[product.class_point * ntaps + t] * most;
            for (int64_t i = 0; i < n; ++i) {
              const int64_t word = (product.first_tap + t) * words_ + (c + i) / group_;
              int16_t* to = reinterpret_cast<int16_t*>(block + word * width * kWordBytes) + (c + i) % group_;
              for (int64_t m = 0; m < channels; ++m) to[m * group_] = static_cast<int16_t>(from[i * width + m] * scale);
            }
          }
        }
      }
  }

  void run_task(const Task& task, const Call& call, char* memory) const override {
    Carver carver(memory);
    const Scratch s(*this, carver);
    const Dims tiles = w_.tiles(task.extent);
    const int64_t count = product(tiles);
    load_window(task, call, s.lists);
    int64_t located = 0;  // width of the blocks that the offsets in scratch are for
    for (const auto& input : w_.inputs) {
      transform_input(input, task, tiles, s);
      for (int64_t b = task.block_begin; b < task.block_end; ++b) {
        const int64_t width = block_width(b), results = count * width, line = w_.staggered(results);
        const int64_t class_stride = w_.places * line;
        const int32_t* zeros = call.w_zero.data() + task.g * padded_channels() + b * plan.block;
        if (width != located) {
          w_.locate(task.extent, tiles, line, width, s.x_offset, s.acc_offset, s.results.row_offset,
                    s.results.column_offset);
          s.results.interleave(task.extent[d_ - 1], w_.last_classes, class_stride);
          std::fill_n(s.zeros, width, 0);
          located = width;
        }
        for (int64_t i = input.first_group; i < input.end_group; ++i) {
          const auto& group = w_.groups[i];
          multiply(group, count, width, call.weights + block_at(task.g, b), line, s);
          for (int64_t k = 0; k < w_.last_classes; ++k) {
            int32_t* sums = s.sums + k * class_stride;
            transform_output(w_.forms[group.first + k], s.products + k * w_.max_class_points * line, sums, line,
                             results, s);
            finish_sums(group.first + k, task, call, b, count, line, zeros, sums, s);
          }
          store(sub_kernels_[group.first], task, b, 0, w_.last_classes, s.sums, call, s.results);
        }
      }
    }
  }

  // Divides the sums of a sub-kernel by what its weights were multiplied with, and adds what they start with.
  void finish_sums(int64_t which, const Task& task, const Call& call, int64_t block, int64_t count, int64_t line,
                   const int32_t* zeros, int32_t* sums, const Scratch& s) const {
    const int64_t width = block_width(block);
    starts(which, task.g, block, call, s.lists.start);
    for (int64_t place = 0; place < w_.places; ++place)
      k_.settle(sums + place * line, count, static_cast<int>(width / k_.lanes), w_.forms[which].halves, s.lists.start);
    if (!call.w_zeros) return;
    visit_rows(sub_kernels_[which], task, [&](int64_t position, int64_t row, int64_t) {
      for (int64_t i = 0; i < task.extent.back(); ++i)
        subtract_inputs(sub_kernels_[which].offsets, (position + i) * pitch_, zeros, width, s.lists.position_sums,
                        sums + s.results.row_offset[row] + s.results.column_offset[i]);
    });
  }

  void multiply(const WinogradTransforms::Group& group, int64_t count, int64_t width, const char* block, int64_t line,
                const Scratch& s) const {
    QuantizedGemmArgs a{};
    a.x_offset = s.x_offset;
    a.acc_offset = s.acc_offset;
    a.words = words_;
    a.count = count;
    a.start = s.zeros;
    for (const auto& p : group.products) {
      const auto& form = w_.forms[group.first + p.last_class];
      a.taps = form.taps.data();
      a.ntaps = static_cast<int64_t>(form.taps.size());
      a.x = s.points + p.point * w_.point_stride;
      a.w = reinterpret_cast<const int8_t*>(block) + p.first_tap * words_ * width * kWordBytes;
      a.acc = s.products + (p.last_class * w_.max_class_points + p.class_point) * line;
      k_.gemm_wide[width / k_.lanes](a);
    }
  }

  // points[point][tile][channel] = (Bt x Bt x ...) window of the tile.  Offsets count words, of group_ channels.
  void transform_input(const WinogradTransforms::Input& input, const Task& task, const Dims& tiles,
                       const Scratch& s) const {
    const int64_t pitch = group_ * pitch_;
    int16_t *const window = reinterpret_cast<int16_t*>(s.lists.window), *const points =
                                                                            reinterpret_cast<int16_t*>(s.points);
    w_.visit_input(task.extent, tiles, [&](ptrdiff_t corner, ptrdiff_t out) {
      for (int64_t c = 0; c < pitch; c += kChannelsPerPass) {
        const Place<int16_t> places[4] = {{window + corner * group_ + c, group_},
                                          {s.input_pass, kChannelsPerPass},
                                          {s.input_pass + w_.pass_lines * kChannelsPerPass, kChannelsPerPass},
                                          {points + out * group_ + c, w_.point_stride * group_}};
        run_steps(input.steps, k_.input_planes, places, std::min(kChannelsPerPass, pitch - c));
      }
    });
  }

  // sums[position][tile][channel] = (At x At x ...) products[point][tile][channel] of one sub-kernel.
  void transform_output(const WinogradTransforms::Form& form, int32_t* products, int32_t* sums, int64_t line,
                        int64_t results, const Scratch& s) const {
    for (int64_t first = 0; first < results; first += kResultsPerPass) {
      const Place<int32_t> places[4] = {{products + first, line},
                                        {s.output_pass, kResultsPerPass},
                                        {s.output_pass + w_.pass_lines * kResultsPerPass, kResultsPerPass},
                                        {sums + first, line}};
      run_steps(form.steps->output, k_.output_planes, places, std::min(kResultsPerPass, results - first));
    }
  }

  const Kernels<float>& float_;
  WinogradTransforms w_;
};

}  // namespace

std::unique_ptr<QuantizedEngine> make_quantized_winograd(const Problem& p, QuantizedTypes types, const Plan& plan,
                                                         const QuantizedKernels& k, int threads) {
  return std::make_unique<QuantizedWinograd>(p, types, plan, k, threads);
}

}  // namespace ort_tconv
