#include "cpu/quantized.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "core/candidates.h"
#include "core/cost.h"
#include "core/status.h"
#include "cpu/quantized_engine.h"

namespace ort_tconv {

// ---- plan -------------------------------------------------------------------------------------------------

namespace {

constexpr int64_t kMaxClassChunk = 256;

// Cuts the longest axis in two, until `fits` accepts the tile; a row, which memory holds in one piece, counts as
// `row_ratio` times shorter.
template <class Fits>
void cut(Plan& plan, const std::vector<AxisGeometry>& axes, int64_t row_ratio, Fits fits) {
  const int d = static_cast<int>(axes.size());
  plan.tile.clear();
  for (const auto& a : axes) plan.tile.push_back(std::max<int64_t>(1, a.domain));
  while (!fits(plan.tile) && product(plan.tile) > 1) {
    const auto length = [&](int i) { return plan.tile[i] <= 1 ? 0 : plan.tile[i] * (i == d - 1 ? 1 : row_ratio); };
    int longest = d - 1;
    for (int i = d - 2; i >= 0; --i)
      if (length(i) > length(longest)) longest = i;
    // Tiles of one axis stay equally long.
    const int64_t parts = ceil_div(std::max<int64_t>(1, axes[longest].domain), plan.tile[longest]) + 1;
    plan.tile[longest] = std::max<int64_t>(1, std::min(plan.tile[longest] - 1, ceil_div(axes[longest].domain, parts)));
  }
  plan.tiles.clear();
  for (int i = 0; i < d; ++i) plan.tiles.push_back(ceil_div(std::max<int64_t>(1, axes[i].domain), plan.tile[i]));
}

// The cheapest Winograd plan whose sums stay exact, if there is one, and what the cheapest direct plan costs beside it.
// Both are the float engine's: words of two channels halve multiply-adds, loads and copies, and weights are as small as
// they are stored.
std::optional<Plan> winograd_plan(const Problem& problem, const QuantizedKernels& k, const Machine& m,
                                  int64_t class_taps, double* direct) {
  if (k.form != WordForm::kWide || !problem.constant_weights) return std::nullopt;
  Problem p = problem;
  p.weights = WeightStorage::kCompute;
  p.weight_scales.clear();
  std::optional<Plan> best;
  *direct = std::numeric_limits<double>::infinity();
  for (Plan& plan : session_candidates(p, DType::kFloat32, m)) {
    const bool is_winograd = plan.algorithm == Algorithm::kWinograd;
    if (!is_winograd && plan.algorithm != Algorithm::kDirect) continue;
    if (is_winograd) {
      // A sum is up to 2^h times as large, h transformed axes, before it is divided by that.
      const auto halves = std::count(plan.transform.begin(), plan.transform.end(), Transform::kSmall);
      if (std::count(plan.transform.begin(), plan.transform.end(), Transform::kLarge) > 0) continue;  // not exact
      const double products = static_cast<double>(p.group_in() * class_taps);
      if (products * 255 * 128 * static_cast<double>(1 << halves) > 0x7FFFFFFF) continue;
    }
    for (double* n : {&plan.work.multiply_adds, &plan.work.stalls, &plan.work.loads, &plan.work.copies}) *n /= 2;
    plan.packed_bytes /= is_winograd ? 2 : 4;
    plan.work.weight_bytes /= is_winograd ? 2 : 4;
    plan.cost = session_cost(plan, p, m);
    if (!is_winograd) *direct = std::min(*direct, plan.cost);
    else if (!best || plan.cost < best->cost) best = plan;
  }
  return best;
}

}  // namespace

Plan make_quantized_plan(const Problem& p, const QuantizedKernels& k, const Machine& m, const std::string& algorithm) {
  const bool automatic = algorithm.empty() || algorithm == "auto";
  require(
      automatic || algorithm == "direct" || algorithm == "stacked" || algorithm == "narrow" || algorithm == "winograd",
      "attribute algorithm = '", algorithm,
      "': of a quantised convolution it must be auto, direct, stacked, narrow or winograd");
  const int64_t cg = p.group_in(), mg = std::max<int64_t>(1, p.group_out()), lanes = k.lanes;
  const int64_t words = ceil_div(std::max<int64_t>(1, cg), word_channels(k.form));
  const auto all_axes = [&](bool aligned) {
    std::vector<AxisGeometry> axes = segregate(p, aligned);
    axes.insert(axes.begin(), batch_axis(p));
    return axes;
  };
  std::vector<AxisGeometry> axes = all_axes(false), aligned = all_axes(true);
  const auto domain = [](const std::vector<AxisGeometry>& of) {
    int64_t positions = 1;
    for (const auto& a : of) positions *= std::max<int64_t>(1, a.domain);
    return positions;
  };
  int64_t class_taps = 1, stack = 1;
  double pairs = 1, outputs = 1;  // of an output and a tap; of an output channel
  for (const auto& a : axes) {
    size_t most = 1;
    double taps = 0;
    for (const auto& c : a.classes) {
      most = std::max(most, c.taps.size());
      taps += static_cast<double>(c.taps.size()) * static_cast<double>(c.count);
    }
    class_taps *= static_cast<int64_t>(most);
    stack *= std::max<int64_t>(1, static_cast<int64_t>(a.classes.size()));
    pairs *= taps;
    outputs *= static_cast<double>(a.out);
  }

  // Multiplications of vectors, and what else takes as long as so many: to finish a vector of sums, and to begin
  // with those of a position.  Lanes are output channels; or those of all sub-kernels, at the positions that one of
  // them has, whose results are finished in short pieces; or positions, of which a row's last vector may lack some,
  // and for which the products wait for more loads.
  const int64_t stacked_lanes = round_up(mg * stack, lanes);
  const double row = static_cast<double>(std::max<int64_t>(1, axes.back().domain));
  const double filled = static_cast<double>(round_up(axes.back().domain, lanes)) / row;
  const double vectors = static_cast<double>(ceil_div(mg, lanes)), channels = static_cast<double>(mg) / lanes;
  const double stacked_vectors = static_cast<double>(stacked_lanes / lanes) * static_cast<double>(domain(aligned));
  const bool stackable = have_equal_taps(aligned);
  const auto work = [](double multiply_adds, double loads, double sums, double stores) {
    Work w;
    w.multiply_adds = multiply_adds, w.loads = loads, w.sums = sums, w.stores = stores;
    return w;
  };
  const auto cost = [](const Work& w) { return w.multiply_adds + w.loads + w.sums + w.stores; };
  const double rows = pairs * words * filled * channels;
  const Work direct = work(pairs * words * vectors, 0, 32 * outputs, 16 * outputs * vectors);
  const Work stacked = work(stacked_vectors * static_cast<double>(class_taps * words), 0, 0, 32 * stacked_vectors);
  const Work narrow = work(rows, rows / 4, 0, 16 * outputs * channels);

  Plan plan;
  plan.work = direct;
  const auto offer = [&](Algorithm other, const Work& its_work) {
    if (automatic ? cost(its_work) >= cost(plan.work) : algorithm != name(other)) return;
    plan.algorithm = other;
    plan.work = its_work;
  };
  offer(Algorithm::kNarrow, narrow);
  if (stackable) offer(Algorithm::kStacked, stacked);
  double winograd = 0, beside = 0;  // costs of Winograd, and of direct by the same measure
  if (plan.algorithm == Algorithm::kDirect && (automatic || algorithm == name(Algorithm::kWinograd))) {
    if (auto best = winograd_plan(p, k, m, class_taps, &beside)) {
      winograd = best->cost;
      if (!automatic || winograd < beside) {
        best->reason =
            concat(automatic ? "cheaper than direct:" : "asked for;", " winograd ", winograd, " direct ", beside);
        return *best;
      }
    }
  }
  const bool is_narrow = plan.algorithm == Algorithm::kNarrow, is_stacked = plan.algorithm == Algorithm::kStacked;
  if (is_stacked) {
    plan.aligned = true;
    axes = std::move(aligned);
  }
  const int64_t last_classes = std::max<int64_t>(1, static_cast<int64_t>(axes.back().classes.size()));
  const int64_t step = k.max_vectors * lanes;  // lanes of a product
  if (is_narrow) {
    plan.class_chunk = last_classes;
    plan.block = std::min<int64_t>(mg, m.max_rows);
    plan.blocks = ceil_div(mg, plan.block);
  } else if (is_stacked) {
    plan.class_chunk = 1;
    plan.block = stacked_block(stacked_lanes, last_classes, lanes, step);
    plan.blocks = ceil_div(stacked_lanes, plan.block);
  } else {
    plan.class_chunk = std::min(last_classes, kMaxClassChunk);
    plan.block = std::min(round_up(mg, lanes), step);
    plan.blocks = ceil_div(mg, plan.block);
  }

  const int64_t pitch = is_narrow ? words : round_up(std::max<int64_t>(1, cg), 16) / word_channels(k.form);
  const int64_t base = std::max<int64_t>(1, p.group);
  const int64_t tasks_wanted = m.threads == 1 ? 1 : 4 * static_cast<int64_t>(m.threads);
  const int64_t positions = domain(axes);
  // Positions below which a tile is not cut for more tasks: blocks of channels can be shared out instead.
  const int64_t least = is_narrow ? 16 * lanes : 64;
  cut(plan, axes, is_narrow ? 128 : 16, [&](const Dims& t) {
    int64_t window = pitch * 4;
    for (size_t i = 0; i < axes.size(); ++i) window *= WindowAxis(axes[i], t[i]).extent;
    const int64_t n = product(t);
    const int64_t results = plan.class_chunk * 4 * (is_narrow ? t.back() : n) * plan.block;
    const bool enough = base * ceil_div(positions, n) >= tasks_wanted || n <= least;
    return enough && (is_narrow || n <= 256) && (n <= least || window <= m.l2_bytes / 2) &&
           results <= std::max<int64_t>(m.l2_bytes / 4, 64 * 1024);
  });
  const int64_t tiles = base * product(plan.tiles);
  const int64_t chunks = std::min(plan.blocks, ceil_div(tasks_wanted, tiles));
  plan.blocks_per_task = ceil_div(plan.blocks, std::max<int64_t>(1, chunks));
  plan.tasks = tiles * ceil_div(plan.blocks, plan.blocks_per_task);

  const int64_t line = class_taps * std::min(step, plan.block) * word_channels(k.form);
  plan.channel_chunk = is_narrow ? words : channel_chunk(words, line, m);
  plan.macs = static_cast<double>(p.group * mg * cg) * pairs;
  plan.cost = static_cast<double>(p.group) * cost(plan.work);
  for (double* n : {&plan.work.multiply_adds, &plan.work.loads, &plan.work.sums, &plan.work.stores})
    *n *= static_cast<double>(p.group);
  plan.work.tasks = static_cast<double>(plan.tasks);
  plan.reason = concat(automatic ? "cheapest of" : "asked for;", " direct ", cost(direct),
                       stackable ? concat(" stacked ", cost(stacked)) : "", " narrow ", cost(narrow),
                       winograd > 0 ? concat("; winograd ", winograd, " beside direct ", beside) : "");
  if (!automatic && algorithm != name(plan.algorithm))
    plan.reason = concat("no ", algorithm, " plan for these sub-kernels: ", plan.reason);
  return plan;
}

// ---- engines ----------------------------------------------------------------------------------------------

namespace {

// One implicit GEMM a residue class, as the float engine's (direct.cc).
// Packed weights: [group][block][sub-kernel][chunk of words][tap][word][output channel of the block][byte].
class QuantizedDirect final : public QuantizedBlocks {
 public:
  QuantizedDirect(const Problem& p, QuantizedTypes types, const Plan& pl, const QuantizedKernels& k, int threads)
      : QuantizedBlocks(p, types, pl, k, threads) {
    Carver measure(nullptr);
    Scratch(*this, measure);
    plan.scratch_bytes = static_cast<int64_t>(measure.used());
    set_packed_bytes(p.group * padded_channels() * words_ * total_taps_ * group_);
  }

  void pack(const uint8_t* w, char* packed) const override {
    const int64_t taps = product(problem.kernel);
    std::fill_n(packed, sums_at_, 0);
    for (int64_t g = 0; g < problem.group; ++g)
      for (int64_t b = 0; b < plan.blocks; ++b) {
        const int64_t width = block_width(b);
        char* const block = packed + block_at(g, b);
        for (int64_t c = 0; c < cg_; ++c) {
          const uint8_t* row = w + ((g * cg_ + c) * mg_ + b * plan.block) * taps;
          for (const auto& sub : sub_kernels_) {
            const int64_t ntaps = static_cast<int64_t>(sub.taps.size());
            for (int64_t t = 0; t < ntaps; ++t) {
              char* out = block + sub.first_tap * words_ * width * group_ + weight_at(c, t, ntaps, width);
              for (int64_t m = 0; m < block_channels(b); ++m)
                out[m * group_] = static_cast<char>(row[m * taps + sub.taps[t]] ^ w_flip());
            }
          }
        }
      }
    pack_sums(w, packed);
  }

 private:
  struct Scratch {
    Lists lists;
    Results results;
    int32_t* acc;
    Scratch(const QuantizedDirect& e, Carver& c) : lists(e, c), results(e, c) {
      acc = c.take<int32_t>(e.plan.class_chunk * e.class_stride());
    }
  };

  int64_t class_stride() const { return product(plan.tile) * plan.block; }
  int64_t block_at(int64_t g, int64_t b) const {
    return (g * padded_channels() + b * plan.block) * words_ * total_taps_ * group_;
  }

  void run_task(const Task& task, const Call& call, char* memory) const override {
    Carver carver(memory);
    Scratch s(*this, carver);
    load_window(task, call, s.lists);
    const int64_t rows = product(plan.tile) / plan.tile.back();
    for (int64_t r = 0; r < rows; ++r) s.results.row_offset[r] = r * plan.tile.back() * plan.block;
    for (int64_t i = 0; i < task.extent[d_ - 1]; ++i) s.results.column_offset[i] = i * plan.block;
    const int64_t last_classes = static_cast<int64_t>(axes_.back().classes.size());
    for (int64_t k0 = 0; k0 < last_classes; k0 += plan.class_chunk) {
      const int64_t k1 = std::min(last_classes, k0 + plan.class_chunk);
      s.results.interleave(task.extent[d_ - 1], k1 - k0, class_stride());
      for (int64_t first = 0; first < sub_kernel_count(); first += last_classes)
        for (int64_t b = task.block_begin; b < task.block_end; ++b) {
          for (int64_t k = k0; k < k1; ++k) sum(first + k, task, b, s.acc + (k - k0) * class_stride(), call, s);
          store(sub_kernels_[first], task, b, k0, k1, s.acc, call, s.results);
        }
    }
  }

  // One sub-kernel, one block of output channels, all of the tile's pixels that the class owns.
  void sum(int64_t index, const Task& task, int64_t block, int32_t* acc, const Call& call, const Scratch& s) const {
    const SubKernel& sub = sub_kernels_[index];
    const int last = d_ - 1;
    const int64_t owned =
        std::clamp<int64_t>(axes_[last].classes[sub.classes[last]].count - task.q0[last], 0, task.extent[last]);
    const int64_t width = block_width(block), channel = task.g * padded_channels() + block * plan.block;
    starts(index, task.g, block, call, s.lists.start);
    int64_t count = 0;
    visit_rows(sub, task, [&](int64_t position, int64_t row, int64_t) {
      for (int64_t i = 0; i < owned; ++i, ++count) {
        s.lists.x_offset[count] = (position + i) * pitch_;
        s.lists.acc_offset[count] = s.results.row_offset[row] + i * plan.block;
      }
    });
    const int8_t* w = reinterpret_cast<const int8_t*>(call.weights) + block_at(task.g, block) +
                      sub.first_tap * words_ * width * group_;
    multiply(sub.offsets, count, w, width, s.lists.start, call.w_zero.data() + channel, call, s.lists, acc);
  }
};

// All sub-kernels, which have equal taps, of all output channels in one implicit GEMM, as the float engine's
// (stacked.cc).  Lanes are ordered by [output channel][classes of the leading axes][class of the last axis].
// Packed weights: [group][block][step][chunk of words][tap][word][lane of the step][byte], where a step is as many
// lanes as a GEMM takes at a time.
class QuantizedStacked final : public QuantizedProducts {
 public:
  QuantizedStacked(const Problem& p, QuantizedTypes types, const Plan& pl, const QuantizedKernels& k, int threads)
      : QuantizedProducts(p, types, pl, k, threads), classes_(static_cast<int64_t>(axes_.back().classes.size())),
        stack_(sub_kernel_count()), step_(k.max_vectors * k.lanes),
        ntaps_(static_cast<int64_t>(sub_kernels_.front().taps.size())) {
    Carver measure(nullptr);
    Scratch(*this, measure);
    plan.scratch_bytes = static_cast<int64_t>(measure.used());
    set_packed_bytes(p.group * padded_lanes() * words_ * ntaps_ * group_);
  }

  void pack(const uint8_t* w, char* packed) const override {
    const int64_t taps = product(problem.kernel);
    std::fill_n(packed, sums_at_, 0);
    for (int64_t g = 0; g < problem.group; ++g)
      for (int64_t c = 0; c < cg_; ++c)
        for (int64_t step = 0; step < padded_lanes();) {
          const int64_t width = step_width(step);
          for (int64_t t = 0; t < ntaps_; ++t) {
            char* out = packed + weights_at(g, step) + weight_at(c, t, ntaps_, width);
            for (int64_t lane = step; lane < std::min(lanes(), step + width); ++lane, out += group_) {
              const int64_t at = ((g * cg_ + c) * mg_ + lane / stack_) * taps + sub_kernels_[lane % stack_].taps[t];
              *out = static_cast<char>(w[at] ^ w_flip());
            }
          }
          step += width;
        }
    pack_sums(w, packed);
  }

 private:
  struct Scratch {
    Lists lists;
    int32_t *acc, *zeros, *row;
    char* results;
    Scratch(const QuantizedStacked& e, Carver& c) : lists(e, c) {
      acc = c.take<int32_t>(product(e.plan.tile) * e.plan.block + kBeyond);
      zeros = c.take<int32_t>(e.plan.block);
      const int64_t outputs = std::max(e.plan.block, e.whole_rows() ? e.classes_ * e.plan.tile.back() : 0);
      row = c.take<int32_t>(outputs + kBeyond);
      results = c.take<char>(outputs * storage_bytes(e.types_.y));
    }
  };
  static constexpr int64_t kBeyond = 16;  // sums that finishing a row may read behind it

  int64_t lanes() const { return mg_ * stack_; }
  int64_t padded_lanes() const { return round_up(lanes(), k_.lanes); }
  int64_t padded_channels() const override { return mg_; }
  int64_t block_end(int64_t first) const { return std::min(padded_lanes(), first + plan.block); }
  // Of the step that begins at a lane: a block's last one may be shorter.
  int64_t step_width(int64_t step) const { return std::min(step_, block_end(step / plan.block * plan.block) - step); }
  int64_t weights_at(int64_t g, int64_t step) const { return (g * padded_lanes() + step) * words_ * ntaps_ * group_; }
  bool whole_rows() const { return joins_rows(classes_, k_.lanes); }

  void run_task(const Task& task, const Call& call, char* memory) const override {
    Carver carver(memory);
    const Scratch s(*this, carver);
    load_window(task, call, s.lists);
    // Any sub-kernel tells the taps: they lie in the same order in all.
    const std::vector<ptrdiff_t>& taps = sub_kernels_.front().offsets;
    int64_t count = 0;
    Odometer lead(task.extent.begin(), task.extent.end() - 1);
    do {
      int64_t position = 0, index = 0;
      for (int i = 0; i < d_ - 1; ++i) {
        position += lead.at[i] * window_stride_[i];
        index = index * plan.tile[i] + lead.at[i];
      }
      for (int64_t i = 0; i < task.extent[d_ - 1]; ++i, ++count) {
        s.lists.x_offset[count] = (position + i) * pitch_;
        s.lists.acc_offset[count] = (index * plan.tile.back() + i) * plan.block;
      }
    } while (lead.next());
    for (int64_t b = task.block_begin; b < task.block_end; ++b) {
      const int64_t first = b * plan.block, end = block_end(first);
      for (int64_t lane = first; lane < end; ++lane) {
        const bool exists = lane < lanes();
        const int64_t m = lane / stack_, channel = task.g * mg_ + m, sub = lane % stack_;
        s.zeros[lane - first] = exists ? call.w_zero[channel] : 0;
        s.lists.start[lane - first] = exists ? start(sub_kernels_[sub], channel, call, sum_index(task.g, sub, m)) : 0;
      }
      for (int64_t step = first; step < end; step += step_) {
        const int8_t* w = reinterpret_cast<const int8_t*>(call.weights) + weights_at(task.g, step);
        multiply(taps, count, w, step_width(step), s.lists.start + step - first, s.zeros + step - first, call, s.lists,
                 s.acc + step - first);
      }
      store_stacked(task, first, std::min(lanes(), end), s.acc, whole_rows() ? s.row : nullptr,
                    [&](const int32_t* sums, int64_t o, int64_t n, int64_t out_row, int64_t channel) {
                      finish(sums, o, n, out_row, channel, call, s.results);
                    });
    }
  }

  // Requantises n sums and writes them to outputs o .. o+n-1 of one row of a channel.
  void finish(const int32_t* sums, int64_t o, int64_t n, int64_t out_row, int64_t channel, const Call& call,
              char* results) const {
    const float multiplier = call.multiplier[channel], offset = call.offset[channel];
    if (types_.y == QuantizedType::kFloat32)
      k_.finish_floats(&sums, 1, n, multiplier, offset, call.epilogue, reinterpret_cast<float*>(results));
    else k_.finish_bytes(&sums, 1, n, multiplier, offset, call.epilogue, reinterpret_cast<uint8_t*>(results));
    write(results, o, n, out_row, channel, call);
  }

  int64_t classes_, stack_;  // residue classes of the last axis, and of all axes together
  int64_t step_, ntaps_;
};

// Rows of positions, the window with positions last: for few output channels.
// Packed weights: [group][block][sub-kernel][tap][word][output channel of the block], words in the input's form.
class QuantizedNarrow final : public QuantizedEngine {
 public:
  QuantizedNarrow(const Problem& p, QuantizedTypes types, const Plan& pl, const QuantizedKernels& k, int threads)
      : QuantizedEngine(p, types, pl, k, threads), plane_(round_up(window_positions_ + k.lanes, 16)) {
    Carver measure(nullptr);
    Scratch(*this, measure);
    plan.scratch_bytes = static_cast<int64_t>(measure.used());
    set_packed_bytes(p.group * mg_ * words_ * total_taps_ * 4);
  }

  void pack(const uint8_t* w, char* packed) const override {
    const int bits = 32 / static_cast<int>(group_);
    uint32_t* out = reinterpret_cast<uint32_t*>(packed);
    for (int64_t g = 0; g < problem.group; ++g)
      for (int64_t m0 = 0; m0 < mg_; m0 += plan.block)
        for (const auto& sub : sub_kernels_)
          for (int64_t tap : sub.taps)
            for (int64_t q = 0; q < words_; ++q)
              for (int64_t m = m0; m < std::min(mg_, m0 + plan.block); ++m, ++out) {
                *out = 0;
                for (int64_t k = 0; k < std::min(group_, cg_ - q * group_); ++k) {
                  const auto v = static_cast<uint32_t>(static_cast<int32_t>(weight(w, g, q * group_ + k, m, tap)));
                  *out |= (v & ((1u << bits) - 1)) << (bits * k);
                }
              }
    pack_sums(w, packed);
  }

 private:
  struct Scratch {
    uint32_t* window;
    int32_t *acc, *position_sums;
    const int32_t** classes;
    QuantizedRowsArgs* args;
    char* row;
    Scratch(const QuantizedNarrow& e, Carver& c) {
      const int64_t classes_n = e.plan.class_chunk;
      window = c.take<uint32_t>(e.words_ * e.plane_);
      acc = c.take<int32_t>(classes_n * e.plan.block * e.row_stride());
      position_sums = c.take<int32_t>(e.plane_);
      classes = c.take<const int32_t*>(classes_n);
      args = c.take<QuantizedRowsArgs>(classes_n);
      row = c.take<char>(classes_n * e.row_stride() * storage_bytes(e.types_.y));
    }
  };

  int64_t row_stride() const { return round_up(plan.tile.back(), std::max<int64_t>(16, k_.lanes)); }
  int64_t padded_channels() const override { return mg_; }

  void load_window(const Task& task, const Call& call, Scratch& s) const {
    const uint8_t* x = input(call, task);
    visit_window(
        task.q0,
        [&](int64_t position, int64_t source, int64_t n) {
          k_.load_rows(x + source, in_size_, n, cg_, x_flip(), s.window + position, plane_);
        },
        [&](int64_t position, int64_t n) {
          for (int64_t q = 0; q < words_; ++q) std::fill_n(s.window + q * plane_ + position, n, call.padding[q]);
        });
    if (!call.w_zeros) return;
    for (int64_t i = 0; i < window_positions_; ++i) s.position_sums[i] = k_.sum(s.window + i, words_, plane_);
  }

  void run_task(const Task& task, const Call& call, char* memory) const override {
    Carver carver(memory);
    Scratch s(*this, carver);
    if (cg_ > 0) load_window(task, call, s);
    const int64_t last_classes = static_cast<int64_t>(axes_.back().classes.size());
    for (int64_t first = 0; first < sub_kernel_count(); first += last_classes)
      for (int64_t b = task.block_begin; b < task.block_end; ++b) {
        for (int64_t k = 0; k < last_classes; ++k) s.args[k] = arguments(first + k, k, task, b, call, s);
        visit_rows(sub_kernels_[first], task, [&](int64_t position, int64_t, int64_t out_row) {
          for (int64_t k = 0; k < last_classes; ++k)
            sum(s.args[k], sub_kernels_[first + k], position, task, b, call, s);
          store(last_classes, task, b, out_row, call, s);
        });
      }
  }

  int32_t* results(const Scratch& s, int64_t k, int64_t m) const { return s.acc + (k * plan.block + m) * row_stride(); }
  int64_t block_channels(int64_t b) const { return std::min(plan.block, mg_ - b * plan.block); }

  // What all rows of a sub-kernel, class k of the last axis, have in common.
  QuantizedRowsArgs arguments(int64_t index, int64_t k, const Task& task, int64_t b, const Call& call,
                              const Scratch& s) const {
    const SubKernel& sub = sub_kernels_[index];
    const int64_t channels = block_channels(b), m0 = b * plan.block;
    QuantizedRowsArgs a{};
    a.count = std::clamp<int64_t>(axes_.back().classes[k].count - task.q0[d_ - 1], 0, task.extent[d_ - 1]);
    a.word_stride = plane_;
    a.taps = sub.offsets.data();
    a.ntaps = static_cast<int64_t>(sub.taps.size());
    a.words = words_;
    a.w = reinterpret_cast<const uint32_t*>(call.weights) +
          ((task.g * mg_ + m0) * total_taps_ + sub.first_tap * channels) * words_;
    for (int64_t m = 0; m < channels; ++m) {
      a.out[m] = results(s, k, m);
      a.start[m] = start(sub, task.g * mg_ + m0 + m, call, sum_index(task.g, index, m0 + m));
    }
    return a;
  }

  // One row of one sub-kernel.
  void sum(QuantizedRowsArgs& a, const SubKernel& sub, int64_t position, const Task& task, int64_t b, const Call& call,
           const Scratch& s) const {
    if (a.count == 0) return;
    a.x = s.window + position;
    k_.rows[block_channels(b)](a);
    if (!call.w_zeros) return;
    for (int64_t m = 0; m < block_channels(b); ++m)
      for (ptrdiff_t tap : sub.offsets) {
        const uint32_t zero = static_cast<uint32_t>(call.w_zero[task.g * mg_ + b * plan.block + m]);
        const int32_t* sums = s.position_sums + position + tap;
        for (int64_t i = 0; i < a.count; ++i)
          a.out[m][i] =
              static_cast<int32_t>(static_cast<uint32_t>(a.out[m][i]) - zero * static_cast<uint32_t>(sums[i]));
      }
  }

  void store(int64_t classes, const Task& task, int64_t b, int64_t out_row, const Call& call, const Scratch& s) const {
    const int64_t columns = task.extent[d_ - 1], o0 = axes_.back().output(0, task.q0[d_ - 1]);
    const int64_t valid = std::min(columns * classes, axes_.back().out - o0);
    for (int64_t m = 0; m < block_channels(b); ++m) {
      const int64_t channel = task.g * mg_ + b * plan.block + m;
      for (int64_t k = 0; k < classes; ++k) s.classes[k] = results(s, k, m);
      const int ways = static_cast<int>(classes);
      if (types_.y == QuantizedType::kFloat32)
        k_.finish_floats(s.classes, ways, columns, call.multiplier[channel], call.offset[channel], call.epilogue,
                         reinterpret_cast<float*>(s.row));
      else
        k_.finish_bytes(s.classes, ways, columns, call.multiplier[channel], call.offset[channel], call.epilogue,
                        reinterpret_cast<uint8_t*>(s.row));
      // With a stride beyond the output there are fewer classes than the stride: outputs are still neighbours.
      write(s.row, o0, valid, out_row, channel, call);
    }
  }

  int64_t plane_;  // words from one group of channels to the next
};

}  // namespace

QuantizedPrepared::QuantizedPrepared(const Problem& problem, QuantizedTypes types, const QuantizedKernels& kernels,
                                     const Machine& machine, const std::string& algorithm)
    : problem_(simplified(problem)) {
  const Problem p = normal_form(problem);
  const Plan plan = make_quantized_plan(p, kernels, machine, algorithm);
  if (plan.algorithm == Algorithm::kNarrow)
    engine_ = std::make_unique<QuantizedNarrow>(p, types, plan, kernels, machine.threads);
  else if (plan.algorithm == Algorithm::kWinograd)
    engine_ = make_quantized_winograd(p, types, plan, kernels, machine.threads);
  else if (plan.algorithm == Algorithm::kStacked)
    engine_ = std::make_unique<QuantizedStacked>(p, types, plan, kernels, machine.threads);
  else engine_ = std::make_unique<QuantizedDirect>(p, types, plan, kernels, machine.threads);
}
QuantizedPrepared::QuantizedPrepared(QuantizedPrepared&&) noexcept = default;
QuantizedPrepared::~QuantizedPrepared() = default;
const Problem& QuantizedPrepared::problem() const { return problem_; }
const Plan& QuantizedPrepared::plan() const { return engine_->plan; }
const std::vector<int64_t>& QuantizedPrepared::layout() const { return engine_->layout; }

std::shared_ptr<const PackedWeights> QuantizedPrepared::pack(const void* w) const {
  auto packed = std::make_shared<PackedWeights>(engine_->layout, engine_->packed_bytes);
  engine_->pack(static_cast<const uint8_t*>(w), static_cast<char*>(packed->buffer.data.get()));
  return packed;
}

void QuantizedPrepared::run(const PackedWeights& weights, const Requantization& r, const Tensors& tensors,
                            Executor& executor) const {
  require(weights.layout == engine_->layout, "packed weights of another layout");
  engine_->run(weights, r, tensors, executor);
}

}  // namespace ort_tconv
