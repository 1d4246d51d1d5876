// Narrow engine: lanes are positions along a row.
#include <map>
#include <optional>
#include <set>
#include <type_traits>

#include "core/row_layout.h"
#include "cpu/engine.h"

namespace ort_tconv {
namespace {

// A row kernel sums several rows at a time, those of (sub-kernel, output channel), from one reading of the
// window.  Packed weights: [group][block][chunk of rows][tap][channel][row that the tap meets].

constexpr int64_t kFewChannels = 8;

template <class S>
class NarrowEngine final : public EngineBase<S> {
 public:
  using Base = EngineBase<S>;
  using typename Base::T;
  using typename Base::Task;

  NarrowEngine(const Problem& p, const Plan& pl, const KernelSet& set, int threads) : Base(p, pl, set, threads) {
    tile_ = RowLayout(this->axes_, this->plan.tile, static_cast<int64_t>(this->sub_kernels_.size()) * this->plan.block,
                      this->plan.blocks_per_task, this->cg_, this->k_.lanes, sizeof(T), !std::is_same_v<S, T>);
    // A few channels make one long list of taps instead of many short loops.
    channels_ = this->cg_ < kFewChannels ? 1 : this->cg_;
    make_chunks(block_channels(0), &chunks_);
    if (this->plan.blocks > 0) make_chunks(block_channels(this->plan.blocks - 1), &last_chunks_);
    for (const auto* chunks : {&chunks_, &last_chunks_})
      for (const Chunk& chunk : *chunks) {
        this->layout.push_back(-2);
        for (const Row& r : chunk.rows) this->layout.insert(this->layout.end(), {r.sub, r.m});
      }
    Carver measure(nullptr);
    Scratch(*this, measure);
    this->plan.scratch_bytes = static_cast<int64_t>(measure.used());
    this->panel_values_ = this->plan.block * this->cg_ * this->total_taps_;
    this->packed_bytes = this->problem.group * this->mg_ * this->cg_ * this->total_taps_ * sizeof(T);
    this->plan.packed_bytes = static_cast<int64_t>(this->packed_bytes);
  }

 private:
  int64_t panel_offset(int64_t g, int64_t b) const override {
    return (g * this->mg_ + b * this->plan.block) * this->cg_ * this->total_taps_;
  }

  int64_t pack_panel(const void* w, int64_t g, int64_t b, T* values, Quality* quality) const override {
    const int64_t cg = this->cg_, taps = product(this->problem.kernel);
    T* dst = values;
    for (const Chunk& chunk : chunks(b)) {
      int64_t i = 0;  // [tap][channel]
      for (const RowSegment& segment : chunk.segments)
        for (const int64_t end = i + segment.taps * channels_; i < end; ++i)
          for (int r = segment.first; r < segment.first + segment.rows; ++r) {
            const SubKernel& sub = this->sub_kernels_[chunk.rows[r].sub];
            const int64_t tap = sub.taps[*tap_at(sub, chunk.offsets[i / cg])];
            const int64_t m = b * this->plan.block + chunk.rows[r].m, c = i % cg;
            this->io_.load(static_cast<const S*>(w) + ((g * cg + c) * this->mg_ + m) * taps + tap, 1, dst++);
          }
    }
    quality->finite = this->finite(values, dst - values);
    return dst - values;
  }

  struct Row {
    int sub;
    int64_t m;  // within the block
  };
  struct Chunk {  // one call of a row kernel
    std::vector<Row> rows;
    std::vector<RowSegment> segments;
    std::vector<ptrdiff_t> offsets;      // of the taps, segment by segment
    int64_t weights = 0;                 // of one input channel
    std::vector<ptrdiff_t> expanded[2];  // with few channels: offsets of [tap][channel], by Window::view
  };
  struct Window {
    const T* x = nullptr;
    bool view = false;  // the input itself, no copy
  };

  struct Scratch {
    T *window, *acc, *row;
    const T** sources;
    WindowRun* runs;
    Scratch(const NarrowEngine& e, Carver& c) {
      const Plan& p = e.plan;
      window = c.take<T>(e.cg_ * e.tile_.channel_stride + e.k_.lanes);
      acc = c.take<T>(static_cast<int64_t>(e.sub_kernels_.size()) * p.block * e.tile_.results);
      row = c.take<T>(p.block * e.together() * e.outputs_of_row());
      sources = c.take<const T*>(p.class_chunk);
      const auto& last = e.window_.back();  // a row is at most zeros, then input and zeros for each piece
      runs = c.take<WindowRun>(1 + (last.dense ? 1 : last.offsets.size()) * e.window_positions_ / last.extent);
    }
  };

  int64_t outputs_of_row() const { return this->plan.class_chunk * this->plan.tile.back(); }
  int64_t together() const {
    return rows_together(outputs_of_row() * static_cast<int64_t>(sizeof(T)), this->plan.block, tile_.strip);
  }
  int64_t block_channels(int64_t b) const { return std::min(this->plan.block, this->mg_ - b * this->plan.block); }
  const std::vector<Chunk>& chunks(int64_t b) const { return b + 1 < this->plan.blocks ? chunks_ : last_chunks_; }

  int64_t channel_stride(bool view) const { return view ? this->in_size_ : tile_.channel_stride; }

  // Index of the tap that reads at `offset`.
  static std::optional<size_t> tap_at(const SubKernel& sub, ptrdiff_t offset) {
    const auto at = std::find(sub.offsets.begin(), sub.offsets.end(), offset);
    if (at == sub.offsets.end()) return std::nullopt;
    return at - sub.offsets.begin();
  }

  // Sub-kernels in an order in which those that share a class of one axis are neighbours, the richer class of
  // it in the middle: 3x2, 3x3, 2x3, 2x2.
  std::vector<int> neighbours() const {
    std::vector<int> order;
    const int classes = static_cast<int>(this->axes_.back().classes.size());
    const int all = static_cast<int>(this->sub_kernels_.size());
    bool falling = false;
    for (int first = 0; first < all; first += classes) {
      std::vector<int> part;
      for (int k = 0; k < classes; ++k) part.push_back(first + k);
      std::stable_sort(part.begin(), part.end(), [&](int l, int r) {
        return this->sub_kernels_[l].taps.size() < this->sub_kernels_[r].taps.size();
      });
      if (falling) std::reverse(part.begin(), part.end());
      falling = !falling;
      order.insert(order.end(), part.begin(), part.end());
    }
    return order;
  }

  // The segments of given rows: each offset that one of them reads, with each run of rows that read it.
  Chunk make_chunk(std::vector<Row> rows) const {
    Chunk chunk;
    chunk.rows = std::move(rows);
    std::map<std::pair<int, int>, std::vector<ptrdiff_t>> segments;  // by first row and number of rows
    std::set<ptrdiff_t> offsets;
    for (const Row& r : chunk.rows) {
      const SubKernel& sub = this->sub_kernels_[r.sub];
      offsets.insert(sub.offsets.begin(), sub.offsets.end());
      chunk.weights += static_cast<int64_t>(sub.taps.size());
    }
    const int n = static_cast<int>(chunk.rows.size());
    const auto meets = [&](int r, ptrdiff_t offset) {
      return tap_at(this->sub_kernels_[chunk.rows[r].sub], offset).has_value();
    };
    for (ptrdiff_t offset : offsets)
      for (int first = 0; first < n;) {
        int end = first;
        while (end < n && meets(end, offset)) ++end;
        if (end > first) segments[{first, end - first}].push_back(offset);
        first = std::max(end, first + 1);
      }
    const int64_t lists = this->cg_ / channels_;  // of one tap
    for (const auto& [place, taps] : segments) {
      chunk.segments.push_back({static_cast<int64_t>(taps.size()) * lists, place.first, place.second});
      chunk.offsets.insert(chunk.offsets.end(), taps.begin(), taps.end());
    }
    for (bool view : {false, true})
      for (ptrdiff_t offset : chunk.offsets)
        for (int64_t c = 0; c < lists; ++c) chunk.expanded[view].push_back(offset + c * channel_stride(view));
    return chunk;
  }

  // Cuts `rows`, which all read the same offsets, into chunks of nearly equal size.
  void cut(const std::vector<Row>& rows, std::vector<Chunk>* out) const {
    const size_t n = rows.size(), most = this->k_.max_rows, parts = (n + most - 1) / most;
    for (size_t i = 0; i < parts; ++i)
      out->push_back(make_chunk({rows.begin() + i * n / parts, rows.begin() + (i + 1) * n / parts}));
  }

  void make_chunks(int64_t channels, std::vector<Chunk>* out) const {
    std::map<std::vector<ptrdiff_t>, std::vector<Row>> equal;
    for (int sub = 0; sub < static_cast<int>(this->sub_kernels_.size()); ++sub)
      for (int64_t m = 0; m < channels; ++m) equal[this->sub_kernels_[sub].offsets].push_back({sub, m});
    // A single channel's classes go together, though few of them meet the same taps, if they share most of what they
    // read: one row alone would keep a processor waiting for its own sums.
    if (channels == 1 && equal.size() > 1 && this->sub_kernels_.size() <= kMaxPartRows) {
      std::vector<Row> rows;
      for (int sub : neighbours()) rows.push_back({sub, 0});
      Chunk mixed = make_chunk(std::move(rows));
      if (2 * mixed.weights >= 3 * static_cast<int64_t>(mixed.offsets.size())) {
        out->push_back(std::move(mixed));
        return;
      }
    }
    for (const auto& [offsets, rows] : equal) cut(rows, out);
  }

  T* result(const Scratch& s, const Row& row) const {
    return s.acc + (row.sub * this->plan.block + row.m) * tile_.results;
  }

  bool run_task(int64_t index, const Weights& weights, const Tensors& t, char* memory) const override {
    const Task task = this->decode(index);
    Carver carver(memory);
    const Scratch s(*this, carver);
    const int64_t cg = this->cg_;
    Window window = view(task, t);
    if (!window.x) {
      const S* x = this->input(t, task);
      int64_t runs = 0;
      this->visit_window(
          task.q0, [&](int64_t, int64_t source, int64_t n) { s.runs[runs++] = {source, n, 0}; },
          [&](int64_t, int64_t n) {
            if (runs == 0) s.runs[runs++] = {0, 0, 0};
            s.runs[runs - 1].zeros += n;
          });
      for (int64_t c = 0; c < cg; ++c)
        this->io_.load_runs(x + c * this->in_size_, s.runs, runs, s.window + c * tile_.channel_stride);
      std::fill_n(s.window + (cg - 1) * tile_.channel_stride + this->window_positions_, this->k_.lanes, T(0));
      window = {s.window, false};
    }
    // Strips of a few rows, each computed and stored before the next.
    const int along = this->d_ - 2;
    Task strip = task;
    for (int i = 0; i < along; ++i) strip.extent[i] = 1;
    Odometer lead(task.extent.begin(), task.extent.begin() + along);
    do {
      Window part = window;
      for (int i = 0; i < along; ++i) {
        strip.q0[i] = task.q0[i] + lead.at[i];
        part.x += lead.at[i] * this->window_stride_[i];
      }
      for (int64_t r = 0; r < task.extent[along];
           r += tile_.strip, part.x += tile_.strip * this->window_stride_[along]) {
        strip.q0[along] = task.q0[along] + r;
        strip.extent[along] = std::min(tile_.strip, task.extent[along] - r);
        for (int64_t b = task.block_begin; b < task.block_end; ++b) {
          const char* w = weights.packed + panel_offset(strip.g, b) * this->weight_bytes_;
          sum(strip, b, reinterpret_cast<const T*>(w), part, s);
          store(strip, t, b, s);
        }
      }
    } while (lead.next());
    return true;
  }

  // The input itself, where it can serve as the window: no halo, no conversion, rows whole.
  Window view(const Task& task, const Tensors& t) const {
    if constexpr (std::is_same_v<S, T>) {
      if (!tile_.in_place) return {};
      const T* x = this->input(t, task) + task.q0[0] * this->in_stride_[0] + task.q0[1] * this->in_stride_[1];
      // The row kernel reads up to the next whole vector: not past the end of the input.
      const T* end = static_cast<const T*>(t.x) + this->problem.batch * this->problem.channels * this->in_size_;
      const int64_t reach = (this->cg_ - 1) * this->in_size_ + this->window_positions_ + this->k_.lanes;
      if (end - x >= reach) return {x, true};
    }
    return {};
  }

  void sum(const Task& strip, int64_t b, const T* w, const Window& window, const Scratch& s) const {
    const int64_t cg = this->cg_, rows = strip.extent[this->d_ - 2], width = strip.extent.back();
    RowsArgs<T> a;
    a.channel_stride = channel_stride(window.view);
    for (const Chunk& chunk : chunks(b)) {
      const int n = static_cast<int>(chunk.rows.size());
      a.segments = chunk.segments.data();
      a.nsegments = static_cast<int64_t>(chunk.segments.size());
      a.taps = chunk.expanded[window.view].data();
      // Those of several segments would not lie channel after channel.
      const int64_t at_once = chunk.segments.size() == 1 ? std::min(channels_, tile_.channels_at_once) : channels_;
      for (int64_t r = 0; r < (tile_.flat ? 1 : rows); ++r) {
        a.x = window.x + r * this->window_stride_[this->d_ - 2];
        a.count = tile_.flat ? (rows - 1) * tile_.row_stride + width : width;
        for (int i = 0; i < n; ++i) a.out[i] = result(s, chunk.rows[i]) + r * tile_.row_stride;
        for (int64_t c = 0; c < channels_; c += at_once, a.x += at_once * a.channel_stride) {
          a.channels = std::min(at_once, channels_ - c);
          a.w = w + c * chunk.weights;
          a.accumulate = c > 0;
          this->k_.rows[n](a);
        }
      }
      w += chunk.weights * cg;
    }
  }

  void store(const Task& strip, const Tensors& t, int64_t b, const Scratch& s) const {
    const int last = this->d_ - 1;
    const auto& axis = this->axes_[last];
    const int classes = static_cast<int>(axis.classes.size());
    const int64_t n = strip.extent[last], o0 = axis.output(0, strip.q0[last]), stride = together() * n * classes;
    for (int first = 0; first < static_cast<int>(this->sub_kernels_.size()); first += classes) {
      RowsTogether part = {{n * classes, 0, n * classes, 0}, together()};
      const auto finish = [&](int64_t next) {
        const int64_t channel = strip.g * this->mg_ + b * this->plan.block;
        this->finish_channels(s.row, stride, o0, part, next, channel, block_channels(b), t);
      };
      this->visit_rows(this->sub_kernels_[first], strip, [&](int64_t, int64_t row, int64_t out_row) {
        T* const to = s.row + part.add(out_row, finish) * n * classes;
        for (int64_t m = 0; m < block_channels(b); ++m) {
          for (int k = 0; k < classes; ++k) s.sources[k] = result(s, {first + k, m}) + row * tile_.row_stride;
          this->k_.interleave(s.sources, classes, n, to + m * stride);
        }
      });
      if (part.rows.count > 0) finish(this->rows_after(part));
    }
  }

  std::vector<Chunk> chunks_, last_chunks_;  // of all blocks but the last, and of that
  int64_t channels_ = 1;                     // that a row kernel runs through for each tap it is given
  RowLayout tile_;
};

}  // namespace

template <class S>
std::unique_ptr<Engine> make_narrow(const Problem& p, const Plan& plan, const KernelSet& set, int threads) {
  return std::make_unique<NarrowEngine<S>>(p, plan, set, threads);
}
ORT_TCONV_INSTANTIATE(make_narrow)

}  // namespace ort_tconv
