// What the engines share: tasks, the input window of a tile, the epilogue.  Internal to cpu/.
#pragma once

#include <algorithm>
#include <atomic>
#include <exception>
#include <limits>
#include <memory>
#include <mutex>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/geometry.h"
#include "core/integers.h"
#include "core/plan.h"
#include "core/winograd.h"
#include "cpu/kernel.h"
#include "cpu/run.h"

namespace ort_tconv {

template <class S> const StorageKernels<S>& storage_kernels(const KernelSet& set);
template <> inline const StorageKernels<float>& storage_kernels<float>(const KernelSet& set) { return set.float_io; }
template <> inline const StorageKernels<double>& storage_kernels<double>(const KernelSet& set) { return set.double_io; }
template <> inline const StorageKernels<Half>& storage_kernels<Half>(const KernelSet& set) { return set.half_io; }
template <> inline const StorageKernels<BFloat16>& storage_kernels<BFloat16>(const KernelSet& set) {
  return set.bfloat16_io;
}
template <class S> DType storage_tag();
template <> inline DType storage_tag<float>() { return DType::kFloat32; }
template <> inline DType storage_tag<double>() { return DType::kFloat64; }
template <> inline DType storage_tag<Half>() { return DType::kFloat16; }
template <> inline DType storage_tag<BFloat16>() { return DType::kBFloat16; }
template <class T> const Kernels<T>& compute_kernels(const KernelSet& set);
template <> inline const Kernels<float>& compute_kernels<float>(const KernelSet& set) { return set.f32; }
template <> inline const Kernels<double>& compute_kernels<double>(const KernelSet& set) { return set.f64; }

// One residue class per axis: a sub-kernel.
struct SubKernel {
  std::vector<int> classes;        // index into AxisGeometry::classes, an entry an axis
  std::vector<int64_t> taps;       // flat position in the kernel
  std::vector<ptrdiff_t> offsets;  // window position of each tap, for the tile's first pixel
  int64_t first_tap = 0;           // number of taps in the sub-kernels before this one
};

// Odometer over `extents`; starts at zero, next() returns false after the last.
struct Odometer {
  template <class Iterator>
  Odometer(Iterator begin, Iterator end) : size(static_cast<int>(end - begin)) {
    std::copy(begin, end, extents);
  }
  explicit Odometer(const Dims& e) : Odometer(e.begin(), e.end()) {}
  bool next() {
    for (int i = size - 1; i >= 0; --i) {
      if (++at[i] < extents[i]) return true;
      at[i] = 0;
    }
    return false;
  }
  int size;
  int64_t extents[1 + kMaxSpatial], at[1 + kMaxSpatial] = {};  // the batch is an axis, too
};

inline char* aligned(char* p) { return p + (64 - reinterpret_cast<uintptr_t>(p) % 64) % 64; }

// Hands out 64-byte aligned pieces of one allocation; the first pass, without memory, measures.
class Carver {
 public:
  explicit Carver(char* base) : base_(base) {}
  template <class U>
  U* take(int64_t n) {
    const size_t at = used_;
    used_ += round_up(n * static_cast<int64_t>(sizeof(U)), 64);
    return base_ ? reinterpret_cast<U*>(base_ + at) : nullptr;
  }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

// Writes sums of channel m to outputs from `at` on, through the epilogue.
template <class S>
void finish(const StorageKernels<S>& io, const Problem& p, const Tensors& t, int64_t m,
            const typename ComputeType<S>::type* sums, const OutputRows& rows, int64_t at, int64_t ahead) {
  typename ComputeType<S>::type bias = 0;
  if (t.b) io.load(static_cast<const S*>(t.b) + m, 1, &bias);
  const auto& slopes = p.activation.slopes;
  const auto slope = slopes.empty() ? 0 : slopes[slopes.size() == 1 ? 0 : m];
  const typename ComputeType<S>::type scale = t.w_scales ? t.w_scales[m] : 1;
  const bool contiguous = rows.sums_step == rows.n && rows.outputs_step == rows.n;
  const OutputRows one{rows.n * rows.count, 1, 0, 0};
  io.finish(sums, contiguous ? one : rows, scale, bias, t.z ? static_cast<const S*>(t.z) + at : nullptr, p.activation,
            slope, static_cast<S*>(t.y) + at, ahead);
}

// Rows of a channel are put together before they go through the epilogue, no more than there are: short rows, and as
// many as, of all channels that are written in turns, stay in a first-level cache.  Outputs of different channels often
// lie a multiple of a cache's ways apart, and the fewer turns there are, the less they push each other out.
inline int64_t rows_together(int64_t row_bytes, int64_t channels, int64_t rows) {
  constexpr int64_t kShort = 256, kNear = 16 << 10;
  const int64_t bytes = std::max<int64_t>(1, row_bytes);
  const int64_t fit = channels > 1 ? kNear / (bytes * channels) : ceil_div(kShort, bytes);
  return std::clamp<int64_t>(fit, 1, std::max<int64_t>(1, rows));
}

// Those put together at the moment: all equally far apart.
struct RowsTogether {
  OutputRows rows;
  int64_t most, first = 0;  // first: the first one's place
  // Adds the row at this place; returns how many there were.  finish(at) writes those that it does not go with.
  template <class Finish>
  int64_t add(int64_t at, Finish finish) {
    if (rows.count == 1) rows.outputs_step = at - first;
    if (rows.count == most || at != first + rows.count * rows.outputs_step) {
      if (rows.count > 0) finish(at);
      rows.count = 0;
      first = at;
    }
    return rows.count++;
  }
};

// A plan over the residue classes of a problem: the window of each tile, the rows its sub-kernels own, and the
// tasks that tiles and blocks of output channels make.
class Tiling {
 public:
  Tiling(Problem p, Plan pl, int threads) : problem(std::move(p)), plan(std::move(pl)), threads_(threads) {
    // The batch is the outermost axis of the domain: small images share a tile.
    d_ = 1 + problem.rank();
    axes_ = segregate(problem, plan.aligned);
    axes_.insert(axes_.begin(), batch_axis(problem));
    for (int i = 0; i < d_; ++i) {
      WinogradAxis w;
      winograd_axis(axes_[i], plan.transform.empty() ? Transform::kNone : plan.transform[i], &w);
      window_.emplace_back(axes_[i], plan.tile[i], w.beyond());
      winograd_.push_back(std::move(w));
    }
    window_stride_.assign(d_, 1);
    for (int i = d_ - 2; i >= 0; --i) window_stride_[i] = window_stride_[i + 1] * window_[i + 1].extent;
    window_positions_ = window_stride_[0] * window_[0].extent;
    cg_ = problem.group_in();
    mg_ = problem.group_out();
    in_size_ = product(problem.in);
    out_size_ = product(problem.out);
    in_stride_.assign(d_, 1);
    out_stride_.assign(d_, 1);
    for (int i = d_ - 2; i > 0; --i) {
      in_stride_[i] = in_stride_[i + 1] * axes_[i + 1].in;
      out_stride_[i] = out_stride_[i + 1] * axes_[i + 1].out;
    }
    in_stride_[0] = problem.channels * in_size_;
    out_stride_[0] = problem.out_channels * out_size_;
    if (d_ > 2) row_ahead_ = out_stride_[d_ - 2] * axes_[d_ - 2].stride;
    make_sub_kernels();
  }

  Problem problem;
  Plan plan;

 protected:
  // Tasks 0 .. n-1 are drawn from a counter by one worker a thread, each with `bytes` of scratch memory of its own,
  // until work(task, memory) returns false; then so does this.
  template <class Work>
  bool share_out(int64_t n, int64_t bytes, Executor& executor, const Work& work) const {
    std::atomic<int64_t> next{0};
    std::atomic<bool> whole{true};
    std::exception_ptr error;
    std::mutex error_mutex;
    const auto worker = [&](int64_t) {
      char* memory = nullptr;
      try {
        for (int64_t task; (task = next.fetch_add(1)) < n;) {
          if (!memory && bytes > 0) memory = static_cast<char*>(executor.allocate(bytes + 64));
          if (work(task, memory ? aligned(memory) : nullptr)) continue;
          whole = false;
          next = n;
        }
      } catch (...) {
        std::lock_guard<std::mutex> lock(error_mutex);
        error = std::current_exception();
        next = n;
      }
      if (memory) executor.release(memory);
    };
    executor.parallel(std::min<int64_t>(threads_, n), worker);
    if (error) std::rethrow_exception(error);
    return whole;
  }

  struct Task {
    int64_t g, block_begin, block_end;
    Dims q0, extent;  // first domain index and number of them, an entry an axis
  };

  Task decode(int64_t index) const {
    const int64_t per = plan.blocks_per_task, chunks = ceil_div(plan.blocks, per);
    Task t;
    t.block_begin = index % chunks * per;
    t.block_end = std::min(plan.blocks, t.block_begin + per);
    index /= chunks;
    t.q0.resize(d_);
    t.extent.resize(d_);
    for (int i = d_ - 1; i >= 0; --i) {
      t.q0[i] = index % plan.tiles[i] * plan.tile[i];
      t.extent[i] = std::min(plan.tile[i], axes_[i].domain - t.q0[i]);
      index /= plan.tiles[i];
    }
    t.g = index;
    return t;
  }

  // Visits the window of a tile, position after position, as runs along the last axis:
  // copy(position, input index, n) where the input exists, zero(position, n) elsewhere.
  template <class Copy, class Zero>
  void visit_window(const Dims& q0, Copy copy, Zero zero) const {
    const int last = d_ - 1;
    const WindowAxis& row = window_[last];
    const int64_t in = axes_[last].in;
    const int64_t pieces = row.dense ? 1 : static_cast<int64_t>(row.offsets.size());
    const int64_t length = row.extent / pieces;
    int64_t extents[kMaxSpatial];
    for (int i = 0; i < last; ++i) extents[i] = window_[i].extent;
    Odometer lead(extents, extents + last);
    do {
      int64_t position = 0, source = 0;
      bool inside = true;
      for (int i = 0; i < last; ++i) {
        const int64_t c = q0[i] + window_[i].coordinate(lead.at[i]);
        inside = inside && c >= 0 && c < axes_[i].in;
        position += lead.at[i] * window_stride_[i];
        source += c * in_stride_[i];
      }
      if (!inside) {
        zero(position, row.extent);
        continue;
      }
      for (int64_t piece = 0; piece < pieces; ++piece, position += length) {
        const int64_t start = q0[last] + row.coordinate(piece * length);
        const int64_t lo = std::clamp<int64_t>(-start, 0, length), hi = std::clamp<int64_t>(in - start, lo, length);
        if (lo > 0) zero(position, lo);
        if (hi > lo) copy(position + lo, source + start + lo, hi - lo);
        if (length > hi) zero(position + hi, length - hi);
      }
    } while (lead.next());
  }

  // Visits the rows of outputs that sub-kernels with the leading classes of `sub` own in a tile:
  // row(window position of the row's first pixel, its index among a full tile's rows, position of the
  // row's output 0 in channel 0 of Y).
  template <class Row>
  void visit_rows(const SubKernel& sub, const Task& t, Row row) const {
    const int last = d_ - 1;
    Odometer lead(t.extent.begin(), t.extent.begin() + last);
    do {
      int64_t position = 0, index = 0, out = 0;
      bool inside = true;
      for (int i = 0; i < last; ++i) {
        const int64_t o = axes_[i].output(sub.classes[i], t.q0[i] + lead.at[i]);
        inside = inside && o >= 0 && o < axes_[i].out;
        position += lead.at[i] * window_stride_[i];
        index = index * plan.tile[i] + lead.at[i];
        out += o * out_stride_[i];
      }
      if (inside) row(position, index, out);
    } while (lead.next());
  }

  // Stores lanes first .. end-1 of a stacked plan (core/plan.h), sums of which are at acc[pixel * block + lane -
  // first]: of each row of outputs the classes among them.  finish(sums, o, n, out_row, channel) writes outputs o ..
  // o+n-1 of a row of a channel.  With `row`, room for a row of outputs of the tile, rows are put together before.
  template <class A, class Finish>
  void store_stacked(const Task& t, int64_t first, int64_t end, const A* acc, A* row, Finish finish) const {
    const int last = d_ - 1;
    const auto& axis = axes_[last];
    const int64_t n = t.extent[last], block = plan.block, stack = static_cast<int64_t>(sub_kernels_.size());
    const int64_t classes = static_cast<int64_t>(axis.classes.size());
    for (int64_t lane = first; lane < end;) {
      const int64_t k0 = lane % classes, k1 = std::min(classes, k0 + end - lane);
      const int64_t channel = t.g * mg_ + lane / stack, o0 = axis.output(static_cast<int>(k0), t.q0[last]);
      visit_rows(sub_kernels_[lane % stack - k0], t, [&](int64_t, int64_t index, int64_t out_row) {
        const A* from = acc + index * plan.tile[last] * block + lane - first;
        if (row && k1 - k0 == classes) {
          A* to = row;
          for (int64_t i = 0; i < n; ++i, from += block, to += classes)
            for (int64_t k = 0; k < classes; ++k) to[k] = from[k];
          finish(row, o0, n * classes, out_row, channel);
        } else {
          for (int64_t i = 0; i < n; ++i) finish(from + i * block, o0 + i * axis.stride, k1 - k0, out_row, channel);
        }
      });
      lane += k1 - k0;
    }
  }

  int threads_;
  int d_ = 0;
  std::vector<AxisGeometry> axes_;
  std::vector<WinogradAxis> winograd_;  // how the Winograd engine transforms them
  std::vector<WindowAxis> window_;
  Dims window_stride_, in_stride_, out_stride_;
  int64_t row_ahead_ = 0;    // elements of Y from a row to the next of its class
  int64_t cg_ = 0, mg_ = 0;  // channels of a group: in, out
  int64_t window_positions_ = 0, in_size_ = 0, out_size_ = 0, total_taps_ = 0;
  std::vector<SubKernel> sub_kernels_;  // classes of the last axis vary fastest

 private:
  void make_sub_kernels() {
    Dims counts;
    for (const auto& a : axes_) {
      if (a.classes.empty()) return;  // no output
      counts.push_back(static_cast<int64_t>(a.classes.size()));
    }
    Odometer which(counts);
    do {
      SubKernel sub;
      Dims taps;
      for (int i = 0; i < d_; ++i) {
        sub.classes.push_back(static_cast<int>(which.at[i]));
        taps.push_back(static_cast<int64_t>(axes_[i].classes[which.at[i]].taps.size()));
      }
      sub.first_tap = total_taps_;
      if (product(taps) > 0) {
        Odometer tap(taps);
        do {
          int64_t index = 0, position = 0;
          for (int i = 0; i < d_; ++i) {
            const Tap& t = axes_[i].classes[which.at[i]].taps[tap.at[i]];
            index = index * (i == 0 ? 1 : problem.kernel[i - 1]) + t.index;
            position += window_[i].position(t.offset) * window_stride_[i];
          }
          sub.taps.push_back(index);
          sub.offsets.push_back(position);
        } while (tap.next());
      }
      total_taps_ += static_cast<int64_t>(sub.taps.size());
      sub_kernels_.push_back(std::move(sub));
    } while (which.next());
  }
};

// Packed weights as an engine sees them.
struct Weights : Quality {
  char* packed = nullptr;  // null: each task packs those it needs (Plan::pack_in_task)
};

// What Prepared needs of an engine, whatever its types.
class Engine : public Tiling {
 public:
  using Tiling::Tiling;
  virtual ~Engine() = default;
  // Packs into weights->packed, with the executor's threads if there is one, and sets their quality.
  virtual void pack(const void* w, Weights* weights, Executor* executor) const = 0;
  // Whether runs may read W beside packed weights that are finite.
  virtual bool reads_original(const Quality&) const { return false; }
  // False if a task that packed weights met NaN or Inf among them; Y is then undefined.
  virtual bool run(const Weights& weights, const Tensors& tensors, Executor& executor) const = 0;

  std::vector<int64_t> layout;
  size_t packed_bytes = 0;
  bool integers = false;  // packs int8, from weights that are such integers
};

template <class S>
class EngineBase : public Engine {
 public:
  using T = typename ComputeType<S>::type;

  EngineBase(Problem p, Plan pl, const KernelSet& set, int threads)
      : Engine(std::move(p), std::move(pl), threads), set_(set), k_(compute_kernels<T>(set)),
        io_(storage_kernels<S>(set)) {
    layout = {static_cast<int64_t>(plan.algorithm),
              plan.block,
              k_.lanes,
              static_cast<int64_t>(storage_tag<S>()),
              problem.channels,
              problem.out_channels,
              problem.group};
    for (const auto& sub : sub_kernels_) {
      layout.push_back(-1);
      layout.insert(layout.end(), sub.taps.begin(), sub.taps.end());
    }
  }

  void pack(const void* w, Weights* weights, Executor* executor) const override {
    const int64_t blocks = plan.blocks, panels = problem.group * blocks;
    const bool converted = weight_bytes_ != sizeof(T);
    const int64_t temporary = converted ? panel_values_ * static_cast<int64_t>(sizeof(T)) : 0;
    std::atomic<bool> regular{true}, finite{true}, complete{true};
    const auto panel = [&](int64_t i, char* memory) {
      const int64_t g = i / blocks, b = i % blocks;
      char* const to = weights->packed + panel_offset(g, b) * weight_bytes_;
      T* const values = reinterpret_cast<T*>(converted ? memory : to);
      Quality quality;
      const int64_t n = pack_panel(w, g, b, values, &quality);
      if (!quality.regular) regular = false;
      if (!quality.complete) complete = false;
      if (!quality.finite || (converted && !within(values, n, largest()))) finite = false;
      if (converted) keep(values, n, to);
      return true;
    };
    if (executor) {
      share_out(panels, temporary, *executor, panel);
    } else {
      const AlignedBuffer memory(static_cast<size_t>(temporary));
      for (int64_t i = 0; i < panels; ++i) panel(i, static_cast<char*>(memory.data.get()));
    }
    weights->regular = regular;
    weights->finite = finite;
    weights->complete = complete;
  }

  bool run(const Weights& weights, const Tensors& t, Executor& executor) const override {
    if (product(problem.y_shape()) == 0) return true;
    return share_out(plan.tasks, plan.scratch_bytes, executor,
                     [&](int64_t task, char* memory) { return run_task(task, weights, t, memory); });
  }

 protected:
  // False to stop: the weights it packed are not finite.
  virtual bool run_task(int64_t task, const Weights& weights, const Tensors& t, char* scratch) const = 0;

  // Packed weights come in panels, one a group and block, so many values from the first on; pack_panel writes those
  // of one and returns how many.
  virtual int64_t panel_offset(int64_t g, int64_t b) const = 0;
  virtual int64_t pack_panel(const void* w, int64_t g, int64_t b, T* values, Quality* quality) const = 0;

  // Packs a panel for this task alone; false if it is not finite.
  bool task_panel(const void* w, int64_t g, int64_t b, T* values) const {
    Quality quality;
    pack_panel(w, g, b, values, &quality);
    return quality.finite;
  }

  bool within(const T* values, int64_t n, T limit) const {
    const int64_t whole = n / k_.lanes * k_.lanes;
    if (whole > 0 && !k_.within(values, whole, limit)) return false;
    return std::all_of(values + whole, values + n, [&](T v) { return v <= limit && -v <= limit; });
  }

  bool finite(const T* values, int64_t n) const { return within(values, n, std::numeric_limits<T>::max()); }

  // Of a form of fewer bits that weights are kept in.
  T largest() const {
    if (integers) return 128;
    return problem.weights == WeightStorage::kFloat16 ? T(65504) : T(3.38953139e38);
  }

  void keep(const T* from, int64_t n, char* to) const {
    if constexpr (std::is_same_v<T, float>) {
      if (integers) std::copy_n(from, n, reinterpret_cast<int8_t*>(to));
      else if (problem.weights == WeightStorage::kFloat16) set_.half_io.store(from, n, reinterpret_cast<Half*>(to));
      else set_.bfloat16_io.store(from, n, reinterpret_cast<BFloat16*>(to));
    }
  }

  // Writes v[0..n) to outputs o .. o+n-1 of a row of channel m, and of others as far apart as `rows` says, through the
  // epilogue; parts outside of the rows are dropped.
  // The outputs `ahead` elements from these are fetched into the caches.
  void finish_rows(const T* v, int64_t o, const OutputRows& rows, int64_t out_row, int64_t m, const Tensors& t,
                   int64_t ahead) const {
    const int64_t lo = std::max<int64_t>(0, -o), hi = std::min(rows.n, axes_[d_ - 1].out - o);
    if (hi <= lo) return;
    const OutputRows inside{hi - lo, rows.count, rows.sums_step, rows.outputs_step};
    finish(io_, problem, t, m, v + lo, inside, m * out_size_ + out_row + o + lo, ahead);
  }
  void finish_row(const T* v, int64_t o, int64_t n, int64_t out_row, int64_t m, const Tensors& t) const {
    finish_rows(v, o, {n, 1, 0, 0}, out_row, m, t, row_ahead_);
  }

  // The same rows of so many channels from m on, whose sums lie `step` apart; after them the rows from `next` on.
  void finish_channels(const T* v, int64_t step, int64_t o, const RowsTogether& part, int64_t next, int64_t m,
                       int64_t channels, const Tensors& t) const {
    constexpr int64_t kAhead = 3;  // turns, each the rows of a channel
    for (int64_t i = 0; i < channels; ++i, v += step) {
      int64_t ahead = std::min(kAhead, channels) * out_size_;
      if (i + kAhead >= channels) ahead += next - part.first - channels * out_size_;
      finish_rows(v, o, part.rows, part.first, m + i, t, ahead);
    }
  }

  // Where the rows that follow these are most likely to be, if another tile's.
  int64_t rows_after(const RowsTogether& part) const { return part.first + part.rows.count * row_ahead_; }

  const S* input(const Tensors& t, const Task& task) const {
    return static_cast<const S*>(t.x) + task.g * cg_ * in_size_;
  }

  const KernelSet& set_;
  const Kernels<T>& k_;
  const StorageKernels<S>& io_;
  int64_t weight_bytes_ = sizeof(T);  // of a packed weight
  int64_t panel_values_ = 0;          // of the largest panel
};

template <class S> std::unique_ptr<Engine> make_direct(const Problem&, const Plan&, const KernelSet&, int threads);
template <class S> std::unique_ptr<Engine> make_stacked(const Problem&, const Plan&, const KernelSet&, int threads);
template <class S> std::unique_ptr<Engine> make_narrow(const Problem&, const Plan&, const KernelSet&, int threads);
template <class S> std::unique_ptr<Engine> make_winograd(const Problem&, const Plan&, const KernelSet&, int threads);

// Instantiates a factory for every storage type.
#define ORT_TCONV_INSTANTIATE(factory)                                                                  \
  template std::unique_ptr<Engine> factory<float>(const Problem&, const Plan&, const KernelSet&, int);  \
  template std::unique_ptr<Engine> factory<double>(const Problem&, const Plan&, const KernelSet&, int); \
  template std::unique_ptr<Engine> factory<Half>(const Problem&, const Plan&, const KernelSet&, int);   \
  template std::unique_ptr<Engine> factory<BFloat16>(const Problem&, const Plan&, const KernelSet&, int);

}  // namespace ort_tconv
