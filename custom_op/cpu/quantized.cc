#include "cpu/quantized.h"

#include <algorithm>
#include <cstring>

#include "core/status.h"
#include "cpu/engine.h"

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

}  // namespace

Plan make_quantized_plan(const Problem& p, const QuantizedKernels& k, const Machine& m, const std::string& algorithm) {
  const bool automatic = algorithm.empty() || algorithm == "auto";
  require(automatic || algorithm == "direct" || algorithm == "stacked" || algorithm == "narrow",
          "attribute algorithm = '", algorithm,
          "': of a quantised convolution it must be auto, direct, stacked or narrow");
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

  // The weights of one product stay in a quarter of L2 while the tile's pixels pass.
  const int64_t line = class_taps * std::min(step, plan.block) * word_channels(k.form);
  plan.channel_chunk = is_narrow ? words : std::min(words, std::max<int64_t>(16, m.l2_bytes / 4 / line));
  plan.macs = static_cast<double>(p.group * mg * cg) * pairs;
  plan.cost = static_cast<double>(p.group) * cost(plan.work);
  for (double* n : {&plan.work.multiply_adds, &plan.work.loads, &plan.work.sums, &plan.work.stores})
    *n *= static_cast<double>(p.group);
  plan.work.tasks = static_cast<double>(plan.tasks);
  plan.reason = concat(automatic ? "cheapest of" : "asked for;", " direct ", cost(direct),
                       stackable ? concat(" stacked ", cost(stacked)) : "", " narrow ", cost(narrow));
  if (!automatic && algorithm != name(plan.algorithm))
    plan.reason = concat("no ", algorithm, " plan for these sub-kernels: ", plan.reason);
  return plan;
}

// ---- engines ----------------------------------------------------------------------------------------------

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

namespace {

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
    for (int64_t i = 0; i < count; ++i) {
      int32_t inputs = 0;
      for (ptrdiff_t tap : taps) inputs += s.position_sums[(s.x_offset[i] + tap) / pitch_];
      int32_t* at = acc + s.acc_offset[i];
      for (int64_t l = 0; l < width; ++l)
        at[l] = static_cast<int32_t>(static_cast<uint32_t>(at[l]) -
                                     static_cast<uint32_t>(inputs) * static_cast<uint32_t>(zeros[l]));
    }
  }

  // Where channel c's weight of tap t, of so many, lies among those of a product for the first of `width` lanes.
  int64_t weight_at(int64_t c, int64_t t, int64_t ntaps, int64_t width) const {
    const int64_t q = c / group_, q0 = q / plan.channel_chunk * plan.channel_chunk;
    const int64_t n = std::min(plan.channel_chunk, words_ - q0);
    return (ntaps * q0 + t * n + q - q0) * width * group_ + c % group_;
  }

  int64_t pitch_;  // words of a window position
};

// One implicit GEMM a residue class, as the float engine's (direct.cc).
// Packed weights: [group][block][sub-kernel][chunk of words][tap][word][output channel of the block][byte].
class QuantizedDirect final : public QuantizedProducts {
 public:
  QuantizedDirect(const Problem& p, QuantizedTypes types, const Plan& pl, const QuantizedKernels& k, int threads)
      : QuantizedProducts(p, types, pl, k, threads) {
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
    int32_t* acc;
    int64_t *row_offset, *outputs;
    char* rows;
    Scratch(const QuantizedDirect& e, Carver& c) : lists(e, c) {
      acc = c.take<int32_t>(e.plan.class_chunk * e.class_stride());
      row_offset = c.take<int64_t>(product(e.plan.tile) / e.plan.tile.back());
      outputs = c.take<int64_t>(e.plan.class_chunk * e.plan.tile.back());
      rows = c.take<char>(e.plan.block * e.row_stride() * storage_bytes(e.types_.y));
    }
  };

  int64_t class_stride() const { return product(plan.tile) * plan.block; }
  int64_t row_stride() const { return round_up(plan.class_chunk * plan.tile.back(), 16); }
  int64_t padded_channels() const override { return round_up(mg_, k_.lanes); }
  int64_t block_width(int64_t b) const { return std::min(plan.block, padded_channels() - b * plan.block); }
  int64_t block_channels(int64_t b) const { return std::min(plan.block, mg_ - b * plan.block); }
  int64_t block_at(int64_t g, int64_t b) const {
    return (g * padded_channels() + b * plan.block) * words_ * total_taps_ * group_;
  }

  void run_task(const Task& task, const Call& call, char* memory) const override {
    Carver carver(memory);
    Scratch s(*this, carver);
    load_window(task, call, s.lists);
    const int64_t rows = product(plan.tile) / plan.tile.back();
    for (int64_t r = 0; r < rows; ++r) s.row_offset[r] = r * plan.tile.back() * plan.block;
    const int64_t last_classes = static_cast<int64_t>(axes_.back().classes.size());
    for (int64_t k0 = 0; k0 < last_classes; k0 += plan.class_chunk) {
      const int64_t k1 = std::min(last_classes, k0 + plan.class_chunk);
      for (int64_t i = 0, at = 0; i < task.extent[d_ - 1]; ++i)
        for (int64_t k = 0; k < k1 - k0; ++k) s.outputs[at++] = k * class_stride() + i * plan.block;
      for (int64_t first = 0; first < sub_kernel_count(); first += last_classes)
        for (int64_t b = task.block_begin; b < task.block_end; ++b) {
          for (int64_t k = k0; k < k1; ++k) sum(first + k, task, b, s.acc + (k - k0) * class_stride(), call, s);
          store(sub_kernels_[first], task, b, k0, k1, call, s);
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
    for (int64_t m = 0; m < width; ++m)
      s.lists.start[m] = start(sub, channel + m, call, sum_index(task.g, index, block * plan.block + m));
    int64_t count = 0;
    visit_rows(sub, task, [&](int64_t position, int64_t row, int64_t) {
      for (int64_t i = 0; i < owned; ++i, ++count) {
        s.lists.x_offset[count] = (position + i) * pitch_;
        s.lists.acc_offset[count] = s.row_offset[row] + i * plan.block;
      }
    });
    const int8_t* w = reinterpret_cast<const int8_t*>(call.weights) + block_at(task.g, block) +
                      sub.first_tap * words_ * width * group_;
    multiply(sub.offsets, count, w, width, s.lists.start, call.w_zero.data() + channel, call, s.lists, acc);
  }

  // Interleaves classes k0 .. k1-1 of the last axis and writes whole output rows.
  void store(const SubKernel& lead, const Task& task, int64_t block, int64_t k0, int64_t k1, const Call& call,
             Scratch& s) const {
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
      const int32_t* acc = s.acc + s.row_offset[row];
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
                                     const Machine& machine, const std::string& algorithm) {
  const Problem p = normal_form(problem);
  const Plan plan = make_quantized_plan(p, kernels, machine, algorithm);
  if (plan.algorithm == Algorithm::kNarrow)
    engine_ = std::make_unique<QuantizedNarrow>(p, types, plan, kernels, machine.threads);
  else if (plan.algorithm == Algorithm::kStacked)
    engine_ = std::make_unique<QuantizedStacked>(p, types, plan, kernels, machine.threads);
  else engine_ = std::make_unique<QuantizedDirect>(p, types, plan, kernels, machine.threads);
}
QuantizedPrepared::QuantizedPrepared(QuantizedPrepared&&) noexcept = default;
QuantizedPrepared::~QuantizedPrepared() = default;
const Problem& QuantizedPrepared::problem() const { return engine_->problem; }
const Plan& QuantizedPrepared::plan() const { return engine_->plan; }
const std::vector<int64_t>& QuantizedPrepared::layout() const { return engine_->layout; }

std::shared_ptr<const PackedWeights> QuantizedPrepared::pack(const void* w) const {
  auto packed = std::make_shared<PackedWeights>(PackedWeights{engine_->layout, AlignedBuffer(engine_->packed_bytes)});
  engine_->pack(static_cast<const uint8_t*>(w), static_cast<char*>(packed->buffer.data.get()));
  return packed;
}

void QuantizedPrepared::run(const PackedWeights& weights, const Requantization& r, const Tensors& tensors,
                            Executor& executor) const {
  require(weights.layout == engine_->layout, "packed weights of another layout");
  engine_->run(weights, r, tensors, executor);
}

}  // namespace ort_tconv
