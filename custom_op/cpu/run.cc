#include "cpu/run.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <mutex>
#include <new>

#include "core/status.h"

namespace ort_tconv {

AlignedBuffer::AlignedBuffer(size_t n) : bytes(n) {
  const size_t size = (std::max<size_t>(n, 1) + 63) / 64 * 64;
  data.reset(std::aligned_alloc(64, size));
  if (!data) throw std::bad_alloc();
}

// What Prepared needs of an engine, whatever its types.
class Engine {
 public:
  virtual ~Engine() = default;
  virtual void pack(const void* w, void* packed) const = 0;
  virtual void run(const void* packed, const Tensors& tensors, Executor& executor) const = 0;

  Problem problem;
  Plan plan;
  std::vector<int64_t> layout;
  size_t packed_bytes = 0;
};

namespace {

int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }
int64_t product(const Dims& v) {
  int64_t n = 1;
  for (int64_t x : v) n *= x;
  return n;
}

template <class S> const StorageKernels<S>& storage_kernels(const KernelSet& set);
template <> const StorageKernels<float>& storage_kernels<float>(const KernelSet& set) { return set.float_io; }
template <> const StorageKernels<double>& storage_kernels<double>(const KernelSet& set) { return set.double_io; }
template <> const StorageKernels<Half>& storage_kernels<Half>(const KernelSet& set) { return set.half_io; }
template <> const StorageKernels<BFloat16>& storage_kernels<BFloat16>(const KernelSet& set) { return set.bfloat16_io; }
template <class T> const Kernels<T>& compute_kernels(const KernelSet& set);
template <> const Kernels<float>& compute_kernels<float>(const KernelSet& set) { return set.f32; }
template <> const Kernels<double>& compute_kernels<double>(const KernelSet& set) { return set.f64; }

// One residue class per axis: a sub-kernel.
struct SubKernel {
  std::vector<int> classes;              // index into AxisGeometry::classes, an entry an axis
  std::vector<int64_t> taps;             // flat position in the kernel
  std::vector<ptrdiff_t> offsets;        // window position of each tap, for the tile's first pixel
  int64_t first_tap = 0;                 // number of taps in the sub-kernels before this one
};

// Odometer over `extents`; starts at zero, next() returns false after the last.
struct Odometer {
  explicit Odometer(Dims e) : extents(std::move(e)), at(extents.size(), 0) {}
  bool next() {
    for (int i = static_cast<int>(extents.size()) - 1; i >= 0; --i) {
      if (++at[i] < extents[i]) return true;
      at[i] = 0;
    }
    return false;
  }
  Dims extents, at;
};

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

template <class S>
class EngineBase : public Engine {
 public:
  using T = typename ComputeType<S>::type;

  EngineBase(Problem p, Plan pl, const KernelSet& set, int threads)
      : k_(compute_kernels<T>(set)), io_(storage_kernels<S>(set)), threads_(threads) {
    problem = std::move(p);
    plan = std::move(pl);
    d_ = problem.rank();
    axes_ = segregate(problem, plan.aligned);
    for (int i = 0; i < d_; ++i) window_.emplace_back(axes_[i], plan.tile[i]);
    window_stride_.assign(d_, 1);
    for (int i = d_ - 2; i >= 0; --i) window_stride_[i] = window_stride_[i + 1] * window_[i + 1].extent;
    window_positions_ = window_stride_[0] * window_[0].extent;
    in_size_ = product(problem.in);
    out_size_ = product(problem.out);
    make_sub_kernels();
    layout = {static_cast<int64_t>(plan.algorithm), plan.block, k_.lanes, sizeof(T) == 8};
    for (const auto& sub : sub_kernels_) {
      layout.push_back(-1);
      layout.insert(layout.end(), sub.taps.begin(), sub.taps.end());
    }
  }

  // Tasks are drawn from a counter by one worker a thread, each with scratch memory of its own.
  void run(const void* packed, const Tensors& t, Executor& executor) const override {
    if (product(problem.y_shape()) == 0) return;
    std::atomic<int64_t> next{0};
    std::exception_ptr error;
    std::mutex error_mutex;
    const auto worker = [&](int64_t) {
      char* memory = nullptr;
      try {
        for (int64_t task; (task = next.fetch_add(1)) < plan.tasks;) {
          if (!memory) memory = static_cast<char*>(executor.allocate(plan.scratch_bytes + 64));
          char* base = memory + (64 - reinterpret_cast<uintptr_t>(memory) % 64);
          run_task(task, static_cast<const T*>(packed), t, base);
        }
      } catch (...) {
        std::lock_guard<std::mutex> lock(error_mutex);
        error = std::current_exception();
        next = plan.tasks;
      }
      if (memory) executor.release(memory);
    };
    executor.parallel(std::min<int64_t>(threads_, plan.tasks), worker);
    if (error) std::rethrow_exception(error);
  }

 protected:
  struct Task {
    int64_t n, g, block_begin, block_end;
    Dims q0, extent;  // first domain index and number of them, an entry an axis
  };

  virtual void run_task(int64_t task, const T* packed, const Tensors& t, char* scratch) const = 0;

  Task decode(int64_t index) const {
    const int64_t per = plan.blocks_per_task, chunks = (plan.blocks + per - 1) / per;
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
    t.g = index % problem.group;
    t.n = index / problem.group;
    return t;
  }

  // Visits the window of a tile as runs of consecutive positions along the last axis:
  // copy(position, input index, n) where the input exists, zero(position, n) elsewhere.
  template <class Copy, class Zero>
  void visit_window(const Dims& q0, Copy copy, Zero zero) const {
    const int last = d_ - 1;
    const WindowAxis& row = window_[last];
    const int64_t in = problem.in[last];
    const int64_t pieces = row.dense ? 1 : static_cast<int64_t>(row.offsets.size());
    const int64_t length = row.extent / pieces;
    Dims extents;
    for (int i = 0; i < last; ++i) extents.push_back(window_[i].extent);
    Odometer lead(extents);
    do {
      int64_t position = 0, source = 0;
      bool inside = true;
      for (int i = 0; i < last; ++i) {
        const int64_t c = q0[i] + window_[i].coordinate(lead.at[i]);
        inside = inside && c >= 0 && c < problem.in[i];
        position += lead.at[i] * window_stride_[i];
        source = source * problem.in[i] + c;
      }
      if (!inside) {
        zero(position, row.extent);
        continue;
      }
      for (int64_t piece = 0; piece < pieces; ++piece, position += length) {
        const int64_t start = q0[last] + row.coordinate(piece * length);
        const int64_t lo = std::clamp<int64_t>(-start, 0, length), hi = std::clamp<int64_t>(in - start, lo, length);
        if (lo > 0) zero(position, lo);
        if (hi > lo) copy(position + lo, source * in + start + lo, hi - lo);
        if (length > hi) zero(position + hi, length - hi);
      }
    } while (lead.next());
  }

  // Visits the rows of outputs that sub-kernels with the leading classes of `sub` own in a tile:
  // row(window position of the row's first pixel, its index among the tile's rows, flat output index of
  // the row's output 0).
  template <class Row>
  void visit_rows(const SubKernel& sub, const Task& t, Row row) const {
    const int last = d_ - 1;
    Odometer lead(Dims(t.extent.begin(), t.extent.begin() + last));
    do {
      int64_t position = 0, index = 0, out = 0;
      bool inside = true;
      for (int i = 0; i < last; ++i) {
        const int64_t o = axes_[i].output(sub.classes[i], t.q0[i] + lead.at[i]);
        inside = inside && o >= 0 && o < problem.out[i];
        position += lead.at[i] * window_stride_[i];
        index = index * t.extent[i] + lead.at[i];
        out = out * problem.out[i] + o;
      }
      if (inside) row(position, index, out * problem.out[last]);
    } while (lead.next());
  }

  // Writes v[0..n) to outputs o .. o+n-1 of one row of channel m, through the epilogue; parts outside
  // the row are dropped.
  void finish_row(const T* v, int64_t o, int64_t n, int64_t out_row, int64_t batch, int64_t m, const Tensors& t) const {
    const int64_t lo = std::max<int64_t>(0, -o), hi = std::min(n, problem.out[d_ - 1] - o);
    if (hi <= lo) return;
    const int64_t at = (batch * problem.out_channels + m) * out_size_ + out_row + o + lo;
    T bias = 0;
    if (t.b) io_.load(static_cast<const S*>(t.b) + m, 1, &bias);
    const auto& slopes = problem.activation.slopes;
    const T slope = slopes.empty() ? 0 : slopes[slopes.size() == 1 ? 0 : m];
    io_.finish(v + lo, hi - lo, bias, t.z ? static_cast<const S*>(t.z) + at : nullptr, problem.activation, slope,
               static_cast<S*>(t.y) + at);
  }

  const S* input(const Tensors& t, const Task& task) const {
    return static_cast<const S*>(t.x) + (task.n * problem.channels + task.g * problem.group_in()) * in_size_;
  }

  const Kernels<T>& k_;
  const StorageKernels<S>& io_;
  int threads_;
  int d_ = 0;
  std::vector<AxisGeometry> axes_;
  std::vector<WindowAxis> window_;
  Dims window_stride_;
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
            index = index * problem.kernel[i] + t.index;
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

// ---- direct -------------------------------------------------------------------------------------------
// Packed weights: [group][block][sub-kernel][tap][channel][output channel of the block].

template <class S>
class DirectEngine final : public EngineBase<S> {
 public:
  using Base = EngineBase<S>;
  using typename Base::T;
  using typename Base::Task;

  DirectEngine(const Problem& p, const Plan& pl, const KernelSet& set, int threads) : Base(p, pl, set, threads) {
    pitch_ = round_up(std::max<int64_t>(1, this->problem.group_in()), this->k_.lanes);
    for (auto& sub : this->sub_kernels_)
      for (auto& o : sub.offsets) o *= pitch_;
    Carver measure(nullptr);
    Scratch(*this, measure);
    this->plan.scratch_bytes = static_cast<int64_t>(measure.used());
    this->packed_bytes = this->problem.group * round_up(this->problem.group_out(), this->k_.lanes) *
                         this->problem.group_in() * this->total_taps_ * sizeof(T);
    this->plan.packed_bytes = static_cast<int64_t>(this->packed_bytes);
  }

  void pack(const void* w, void* packed) const override {
    const Problem& p = this->problem;
    const int64_t cg = p.group_in(), mg = p.group_out(), taps = product(p.kernel);
    std::vector<T> row(static_cast<size_t>(this->plan.block * taps));
    for (int64_t g = 0; g < p.group; ++g)
      for (int64_t b = 0; b < this->plan.blocks; ++b) {
        const int64_t width = block_width(b), m0 = b * this->plan.block, nm = std::min(width, mg - m0);
        T* dst = block_weights(static_cast<T*>(packed), g, b);
        std::fill(row.begin(), row.end(), T(0));
        for (int64_t c = 0; c < cg; ++c) {
          this->io_.load(static_cast<const S*>(w) + ((g * cg + c) * mg + m0) * taps, nm * taps, row.data());
          int64_t at = 0;
          for (const auto& sub : this->sub_kernels_)
            for (int64_t t : sub.taps) {
              T* out = dst + (at++ * cg + c) * width;
              for (int64_t m = 0; m < width; ++m) out[m] = row[m * taps + t];
            }
        }
      }
  }

 private:
  struct Scratch {
    T *window, *acc, *rows;
    const T** columns;
    const T** x;
    T** y;
    Scratch(const DirectEngine& e, Carver& c) {
      const Plan& p = e.plan;
      const int64_t pixels = product(p.tile), run = p.class_chunk * p.tile.back();
      window = c.take<T>(e.window_positions_ * e.pitch_);
      acc = c.take<T>(p.class_chunk * pixels * p.block);
      rows = c.take<T>(p.block * round_up(run, e.k_.lanes));
      columns = c.take<const T*>(run);
      x = c.take<const T*>(pixels);
      y = c.take<T*>(pixels);
    }
  };

  int64_t block_width(int64_t b) const {
    return std::min(this->plan.block, round_up(this->problem.group_out(), this->k_.lanes) - b * this->plan.block);
  }
  template <class U>
  U* block_weights(U* packed, int64_t g, int64_t b) const {
    const int64_t per_lane = this->problem.group_in() * this->total_taps_;
    return packed + (g * round_up(this->problem.group_out(), this->k_.lanes) + b * this->plan.block) * per_lane;
  }

  void run_task(int64_t index, const T* packed, const Tensors& t, char* memory) const override {
    const Task task = this->decode(index);
    Carver carver(memory);
    const Scratch s(*this, carver);
    load_window(task, t, s.window);

    const int64_t last_classes = static_cast<int64_t>(this->axes_.back().classes.size());
    const int64_t sub_kernels = static_cast<int64_t>(this->sub_kernels_.size());
    for (int64_t first = 0; first < sub_kernels; first += last_classes) {
      for (int64_t b = task.block_begin; b < task.block_end; ++b) {
        const T* w = block_weights(packed, task.g, b);
        for (int64_t k0 = 0; k0 < last_classes; k0 += this->plan.class_chunk) {
          const int64_t k1 = std::min(last_classes, k0 + this->plan.class_chunk);
          for (int64_t k = k0; k < k1; ++k) sum(this->sub_kernels_[first + k], task, b, k - k0, w, s);
          store(this->sub_kernels_[first], task, t, b, k0, k1, s);
        }
      }
    }
  }

  void load_window(const Task& task, const Tensors& t, T* window) const {
    const S* x = this->input(t, task);
    const int64_t cg = this->problem.group_in();
    this->visit_window(
        task.q0,
        [&](int64_t position, int64_t source, int64_t n) {
          this->io_.load_channels_last(x + source, this->in_size_, n, cg, window + position * pitch_, pitch_);
        },
        [&](int64_t position, int64_t n) { std::fill_n(window + position * pitch_, n * pitch_, T(0)); });
  }

  // Accumulator of pixel (row index, i) for class k of the chunk.
  T* accumulator(const Scratch& s, int64_t k, int64_t row, int64_t i) const {
    return s.acc + ((k * product(this->plan.tile)) + row * this->plan.tile.back() + i) * this->plan.block;
  }

  // One sub-kernel, one block of output channels, all of the tile's pixels that the class owns.
  void sum(const SubKernel& sub, const Task& task, int64_t block, int64_t k, const T* w, const Scratch& s) const {
    const int last = this->d_ - 1;
    const auto& axis = this->axes_[last];
    const int64_t owned = std::clamp<int64_t>(axis.classes[sub.classes[last]].count - task.q0[last], 0,
                                              task.extent[last]);
    int64_t pixels = 0;
    this->visit_rows(sub, task, [&](int64_t position, int64_t row, int64_t) {
      for (int64_t i = 0; i < owned; ++i, ++pixels) {
        s.x[pixels] = s.window + (position + i) * pitch_;
        s.y[pixels] = accumulator(s, k, row, i);
      }
    });
    const int64_t width = block_width(block), cg = this->problem.group_in();
    const int nv = static_cast<int>(width / this->k_.lanes);
    const int64_t chunk = this->plan.channel_chunk;
    int64_t c = 0;
    do {
      GemmArgs<T> a;
      a.taps = sub.offsets.data();
      a.ntaps = static_cast<int64_t>(sub.taps.size());
      a.channels = std::min(chunk, cg - c);
      a.w = w + (sub.first_tap * cg + c) * width;
      a.w_tap_stride = cg * width;
      a.accumulate = c > 0;
      // Blocks of nearly equal size, so that no microkernel runs with one lonely pixel.
      const int64_t passes = (pixels + kMaxPixels - 1) / kMaxPixels;
      for (int64_t i = 0, at = 0; i < passes; ++i) {
        const int64_t n = (pixels - at + passes - i - 1) / (passes - i);
        a.x = s.x + at;
        a.acc = s.y + at;
        this->k_.gemm[n][nv](a);
        at += n;
      }
      c += chunk;
      if (c < cg)
        for (int64_t i = 0; i < pixels; ++i) s.x[i] += chunk;
    } while (c < cg);
  }

  // Interleaves the classes of the chunk and writes whole output rows.
  void store(const SubKernel& lead, const Task& task, const Tensors& t, int64_t block, int64_t k0, int64_t k1,
             const Scratch& s) const {
    const int last = this->d_ - 1;
    const auto& axis = this->axes_[last];
    const int64_t classes = k1 - k0, n = task.extent[last] * classes, width = block_width(block);
    const int64_t stride = round_up(this->plan.class_chunk * this->plan.tile.back(), this->k_.lanes);
    const int64_t nm = std::min(width, this->problem.group_out() - block * this->plan.block);
    const bool whole = classes == static_cast<int64_t>(axis.classes.size());
    this->visit_rows(lead, task, [&](int64_t, int64_t row, int64_t out_row) {
      for (int64_t i = 0; i < task.extent[last]; ++i)
        for (int64_t k = 0; k < classes; ++k) s.columns[i * classes + k] = accumulator(s, k, row, i);
      // Classes with one output less leave the row's last columns unset: they are not written either.
      const int64_t o0 = axis.output(static_cast<int>(k0), task.q0[last]);
      const int64_t valid = whole ? std::min(n, axis.out - o0) : n;
      this->k_.transpose(s.columns, valid, static_cast<int>(width / this->k_.lanes), s.rows, stride);
      for (int64_t m = 0; m < nm; ++m) {
        const int64_t channel = task.g * this->problem.group_out() + block * this->plan.block + m;
        if (whole) {
          this->finish_row(s.rows + m * stride, o0, valid, out_row, task.n, channel, t);
        } else {
          for (int64_t i = 0; i < task.extent[last]; ++i)
            this->finish_row(s.rows + m * stride + i * classes, o0 + i * axis.stride, classes, out_row, task.n,
                             channel, t);
        }
      }
    });
  }

  int64_t pitch_ = 0;
};

// ---- narrow -------------------------------------------------------------------------------------------
// Sub-kernels that read the same window offsets are stacked: rows (sub-kernel, output channel) of one
// small matrix.  Packed weights: [group][block][stack][chunk of up to 4 rows][channel][tap][row].

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
    Carver measure(nullptr);
    Scratch(*this, measure);
    this->plan.scratch_bytes = static_cast<int64_t>(measure.used());
    this->packed_bytes = this->problem.group * this->problem.group_out() * this->problem.group_in() *
                         this->total_taps_ * sizeof(T);
    this->plan.packed_bytes = static_cast<int64_t>(this->packed_bytes);
  }

  void pack(const void* w, void* packed) const override {
    const Problem& p = this->problem;
    const int64_t cg = p.group_in(), mg = p.group_out(), taps = product(p.kernel);
    T* dst = static_cast<T*>(packed);
    for (int64_t g = 0; g < p.group; ++g)
      for (int64_t b = 0; b < this->plan.blocks; ++b)
        for (const auto& stack : stacks_)
          visit_rows_of(stack, b, [&](const Row* rows, int n) {
            const int64_t ntaps = static_cast<int64_t>(this->sub_kernels_[stack[0]].taps.size());
            for (int64_t c = 0; c < cg; ++c)
              for (int64_t t = 0; t < ntaps; ++t)
                for (int r = 0; r < n; ++r) {
                  const int64_t tap = this->sub_kernels_[rows[r].sub].taps[t];
                  const int64_t m = b * this->plan.block + rows[r].m;
                  this->io_.load(static_cast<const S*>(w) + ((g * cg + c) * mg + m) * taps + tap, 1, dst++);
                }
          });
  }

 private:
  struct Row { int sub; int64_t m; };  // m: within the block

  struct Scratch {
    T *window, *acc, *row;
    const T** sources;
    Scratch(const NarrowEngine& e, Carver& c) {
      const Plan& p = e.plan;
      window = c.take<T>(e.problem.group_in() * e.window_positions_ + e.k_.lanes);
      acc = c.take<T>(static_cast<int64_t>(e.sub_kernels_.size()) * p.block * e.results_);
      row = c.take<T>(p.class_chunk * p.tile.back());
      sources = c.take<const T*>(p.class_chunk);
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

  void run_task(int64_t index, const T* packed, const Tensors& t, char* memory) const override {
    const Task task = this->decode(index);
    Carver carver(memory);
    const Scratch s(*this, carver);
    const int64_t cg = this->problem.group_in();
    const S* x = this->input(t, task);
    this->visit_window(
        task.q0,
        [&](int64_t position, int64_t source, int64_t n) {
          for (int64_t c = 0; c < cg; ++c)
            this->io_.load(x + c * this->in_size_ + source, n, s.window + c * this->window_positions_ + position);
        },
        [&](int64_t position, int64_t n) {
          for (int64_t c = 0; c < cg; ++c) std::fill_n(s.window + c * this->window_positions_ + position, n, T(0));
        });
    std::fill_n(s.window + cg * this->window_positions_, this->k_.lanes, T(0));
    for (int64_t b = task.block_begin; b < task.block_end; ++b) {
      sum(task, b, packed, s);
      store(task, t, b, s);
    }
  }

  void sum(const Task& task, int64_t b, const T* packed, const Scratch& s) const {
    const int last = this->d_ - 1;
    const int64_t cg = this->problem.group_in();
    const T* w = packed + (task.g * this->problem.group_out() + b * this->plan.block) * cg * this->total_taps_;
    RowsArgs<T> a;
    a.channel_stride = this->window_positions_;
    a.channels = cg;
    for (const auto& stack : stacks_) {
      const SubKernel& first = this->sub_kernels_[stack[0]];
      a.taps = first.offsets.data();
      a.ntaps = static_cast<int64_t>(first.taps.size());
      visit_rows_of(stack, b, [&](const Row* rows, int n) {
        a.w = w;
        w += n * cg * a.ntaps;
        const auto run = [&](int64_t position, int64_t at, int64_t count) {
          a.x = s.window + position;
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
              row = row * task.extent[i] + lead.at[i];
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
          this->finish_row(s.row, axis.output(0, task.q0[last]), n * classes, out_row, task.n,
                           task.g * this->problem.group_out() + b * this->plan.block + m, t);
        }
      });
  }

  std::vector<std::vector<int>> stacks_;  // sub-kernels by equal offsets
  bool flat_ = false;
  int64_t row_stride_ = 0, results_ = 0;
};

template <class S>
std::unique_ptr<Engine> make_engine(const Problem& p, const Plan& plan, const KernelSet& set, int threads) {
  switch (plan.algorithm) {
    case Algorithm::kDirect: return std::make_unique<DirectEngine<S>>(p, plan, set, threads);
    case Algorithm::kNarrow: return std::make_unique<NarrowEngine<S>>(p, plan, set, threads);
  }
  fail("unknown algorithm");
}

std::unique_ptr<Engine> make_engine(const Problem& p, DType dtype, const Plan& plan, const KernelSet& set,
                                    int threads) {
  switch (dtype) {
    case DType::kFloat32: return make_engine<float>(p, plan, set, threads);
    case DType::kFloat64: return make_engine<double>(p, plan, set, threads);
    case DType::kFloat16: return make_engine<Half>(p, plan, set, threads);
    case DType::kBFloat16: return make_engine<BFloat16>(p, plan, set, threads);
  }
  fail("unknown element type");
}

}  // namespace

Prepared::Prepared(const Problem& problem, DType dtype, const KernelSet& kernels, const Machine& machine,
                   const std::string& algorithm)
    : engine_(make_engine(problem, dtype, make_plan(problem, dtype, machine, algorithm), kernels, machine.threads)) {}
Prepared::Prepared(Prepared&&) noexcept = default;
Prepared::~Prepared() = default;
const Problem& Prepared::problem() const { return engine_->problem; }
const Plan& Prepared::plan() const { return engine_->plan; }
const std::vector<int64_t>& Prepared::layout() const { return engine_->layout; }

std::shared_ptr<const PackedWeights> Prepared::pack(const void* w) const {
  auto packed = std::make_shared<PackedWeights>(PackedWeights{engine_->layout, AlignedBuffer(engine_->packed_bytes)});
  engine_->pack(w, packed->buffer.data.get());
  return packed;
}

void Prepared::run(const PackedWeights& weights, const Tensors& tensors, Executor& executor) const {
  require(weights.layout == engine_->layout, "packed weights of another layout");
  engine_->run(weights.buffer.data.get(), tensors, executor);
}

}  // namespace ort_tconv
