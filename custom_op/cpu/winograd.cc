// Winograd engine: every tile of the input window is transformed once and serves all sub-kernels; each
// point of the transform domain is a GEMM over the input channels; the products of each sub-kernel are
// transformed back and leave through the same interleaving store as the direct engine's sums.
// An axis that is not transformed keeps its taps: the GEMM sums them over shifted views of the transformed
// input, as the direct engine does over the window.
// Packed weights: [group][block][leading classes][product][tap][channel][output channel of the block].
#include "core/winograd.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "cpu/block_engine.h"

namespace ort_tconv {
namespace {

// Beyond this a sum of a few values might overflow where the sums of the method itself do not.
constexpr float kLimit = 1e37f;
// Channels of a tile, and results, that are transformed at a time: the lines between the axes stay in L1.
constexpr int64_t kChannelsPerPass = 128;
constexpr int64_t kResultsPerPass = 256;

template <class S>
class WinogradEngine final : public BlockEngine<S> {
 public:
  using Base = BlockEngine<S>;
  using Base::winograd_;
  using typename Base::T;
  using typename Base::Task;

  WinogradEngine(const Problem& p, const Plan& pl, const KernelSet& set, int threads) : Base(p, pl, set, threads) {
    last_classes_ = static_cast<int64_t>(this->axes_.back().classes.size());
    for (int i = 0; i < this->d_; ++i) {
      const WinogradAxis& w = winograd_[i];
      full_tiles_.push_back(w.tiles(this->plan.tile[i]));
      input_tiles_.push_back(w.plain ? this->window_[i].extent : input_tiles(w, full_tiles_.back()));
      if (!w.plain) transformed_.insert(transformed_.begin(), i);
      points_ *= w.points;
      places_ *= w.step;
      int lines = std::max(w.window, w.points);
      for (const WinogradKind& k : w.kinds)
        lines = std::max(lines, w.plain ? k.taps : static_cast<int>(w.groups) * k.alpha);
      pass_lines_ *= lines;
    }
    input_stride_.assign(this->d_, this->pitch_);
    for (int i = this->d_ - 2; i >= 0; --i) input_stride_[i] = input_stride_[i + 1] * input_tiles_[i + 1];
    point_stride_ = staggered(product(input_tiles_) * this->pitch_);
    make_input_steps();
    for (const auto& sub : this->sub_kernels_) describe(sub);
    for (int64_t first = 0; first < static_cast<int64_t>(this->sub_kernels_.size()); first += last_classes_)
      groups_.push_back(make_group(first));
    for (bool t : this->plan.transform) this->layout.push_back(t);
    Carver measure(nullptr);
    Scratch(*this, measure);
    this->plan.scratch_bytes = static_cast<int64_t>(measure.used());
    this->panel_values_ = this->plan.block * p.group_in() * total_products_;
    this->packed_bytes = p.group * this->padded_channels() * p.group_in() * total_products_ * this->weight_bytes_;
    this->plan.packed_bytes = static_cast<int64_t>(this->packed_bytes);
  }

 private:
  int64_t panel_offset(int64_t g, int64_t m) const override {
    return this->block_offset(g, m, this->cg_ * total_products_);
  }

  int64_t pack_panel(const void* w, int64_t g, int64_t b, T* dst, bool* regular) const override {
    const int64_t cg = this->cg_, width = this->block_width(b), taps = product(this->problem.kernel);
    const int64_t most = this->kTogether * width;
    // Of some input channels: the taps of a sub-kernel, its weights, what lies between the axes, and below what a
    // transformed weight is 0.
    std::vector<T> memory(static_cast<size_t>(most * (2 * max_weights_ + 2 * pass_lines_ + 1)));
    T *const own = memory.data(), *const weights = own + max_weights_ * most,
             *const pass = weights + max_weights_ * most;
    T* const least = pass + 2 * pass_lines_ * most;
    this->visit_weights(w, g, b, [&](int64_t c, int64_t together, const T* by_tap, int64_t stride) {
      const int64_t n = together * width;
      find_negligible(by_tap, stride, taps, n, least);
      for (const auto& group : groups_)
        for (int64_t k = 0; k < last_classes_; ++k) {
          const Form& form = forms_[group.first + k];
          for (size_t i = 0; i < form.sources.size(); ++i) {
            if (form.sources[i] < 0) std::fill_n(own + i * most, n, T(0));
            else std::copy_n(by_tap + form.sources[i] * stride, n, own + i * most);
          }
          if (!form.sources.empty())
            run(form.steps->weights, {{own, most}, {pass, most}, {pass + pass_lines_ * most, most}, {weights, most}},
                n);
          const int64_t ntaps = static_cast<int64_t>(form.taps.size());
          for (const Product& product : group.products) {
            if (product.last_class != k) continue;
            for (int64_t t = 0; t < ntaps; ++t) {
              const T* from = weights + form.weight[product.class_point * ntaps + t] * most;
              T* to = dst + ((product.first_tap + t) * cg + c) * width;
              for (int64_t i = 0; i < n; ++i) to[i] = std::abs(from[i]) < least[i] ? T(0) : from[i];
            }
          }
        }
    });
    const int64_t n = width * cg * total_products_;
    *regular = this->k_.within(dst, n, kLimit);
    return n;
  }

  struct Product {
    int64_t point;        // of the transformed input
    int64_t last_class;   // of the last axis
    int64_t class_point;  // among the class's own points
    int64_t first_tap;    // taps of all products before it
  };
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
  // A transform goes through its axes two at a time, in lines: from a source to a destination, and through two
  // buffers between if there are more axes.  A step is one call of a kernel; offsets and strides count in the
  // units of the places that it reads and writes.
  struct Place {
    T* at;
    ptrdiff_t unit;
  };
  struct PlaneStep {
    typename Kernels<T>::PlaneMap map;
    int from, to;  // places: source, two buffers, destination
    ptrdiff_t in, out;
    Plane in_plane, out_plane;
  };
  // How an axis of the source becomes one of the destination: maps, each from a line on to a line on.
  struct AxisMaps {
    struct Piece {
      LineMap map;
      int64_t in, out;
    };
    int64_t in = 1, out = 1;  // lines
    std::vector<Piece> pieces;
    void add(LineMap map, int lines, int64_t from, int64_t to) {
      if (map != LineMap::kCopy) return pieces.push_back({map, from, to});
      for (int l = 0; l < lines; ++l) pieces.push_back({map, from + l, to + l});
    }
  };
  struct Steps { std::vector<PlaneStep> weights, output; };
  // Of a sub-kernel: where its taps lie in the kernel, by rising input position, -1 for a zero that fills up a group;
  // the taps of plain axes and the groups of others, as offsets in the transformed input; and where the weight of
  // (class point, such a tap) lies among its transformed weights.
  struct Form {
    std::vector<int64_t> sources;
    std::vector<ptrdiff_t> taps;
    std::vector<int64_t> weight;
    const Steps* steps = nullptr;
  };
  // Sub-kernels that share their leading classes: one output row pattern.
  struct Group {
    int64_t first;  // of its sub-kernels
    std::vector<Product> products;
  };

  struct Scratch : Base::Common {
    T *points, *products, *sums, *pass, *converted;
    int64_t *x_offset, *acc_offset;
    Scratch(const WinogradEngine& e, Carver& c) : Base::Common(e, c) {
      const int64_t tiles = product(e.full_tiles_), block = e.plan.block;
      points = c.take<T>(e.points_ * e.point_stride_);
      products = c.take<T>(e.last_classes_ * e.max_class_points_ * staggered(tiles * block));
      sums = c.take<T>(e.last_classes_ * e.places_ * staggered(tiles * block));
      pass = c.take<T>(2 * e.pass_lines_ * std::max(kChannelsPerPass, kResultsPerPass));
      converted = e.take_converted(e.most_plain_taps_ * e.cg_ * block, c);
      x_offset = c.take<int64_t>(tiles);
      acc_offset = c.take<int64_t>(tiles);
    }
  };

  const WinogradKind& kind(int axis, const SubKernel& sub) const {
    return winograd_[axis].kinds[winograd_[axis].kind_of_class[sub.classes[axis]]];
  }

  void describe(const SubKernel& sub) {
    std::vector<int> kinds;
    for (int i = 0; i < this->d_; ++i) kinds.push_back(winograd_[i].kind_of_class[sub.classes[i]]);
    // Along an axis, taps lie by rising input position, the reverse of their order in the class, after the zeros that
    // fill up the first group; transformed weights as [group][point] of a transformed and [tap] of a plain axis.
    Form form;
    Dims alpha, plain, lines, own, zeros;
    for (int i = 0; i < this->d_; ++i) {
      const WinogradKind& k = kind(i, sub);
      const WinogradAxis& w = winograd_[i];
      own.push_back(static_cast<int64_t>(this->axes_[i].classes[sub.classes[i]].taps.size()));
      alpha.push_back(k.alpha);
      plain.push_back(w.plain ? k.taps : w.groups);
      lines.push_back(w.plain ? k.taps : w.groups * k.taps);
      zeros.push_back(w.groups > 1 ? w.most_taps - own[i] : 0);
    }
    max_class_points_ = std::max(max_class_points_, product(alpha));
    if (!sub.taps.empty()) {
      Odometer line(lines);
      do {
        int64_t index = 0;
        for (int i = 0; i < this->d_ && index >= 0; ++i) {
          const int64_t at = line.at[i] - zeros[i];
          index = at < 0 || at >= own[i] ? -1 : index * own[i] + own[i] - 1 - at;
        }
        form.sources.push_back(index < 0 ? -1 : sub.taps[index]);
      } while (line.next());
      Odometer tap(plain);
      do {
        ptrdiff_t offset = 0;
        for (int i = 0; i < this->d_; ++i) {
          int64_t position = tap.at[i] * winograd_[i].kinds[0].taps * winograd_[i].spacing;
          if (winograd_[i].plain) {
            const auto& taps = this->axes_[i].classes[sub.classes[i]].taps;
            position = this->window_[i].position(taps[taps.size() - 1 - tap.at[i]].offset);
          }
          offset += position * input_stride_[i];
        }
        form.taps.push_back(offset);
      } while (tap.next());
      Odometer point(alpha);
      do {
        Odometer t(plain);
        do {
          int64_t index = 0;
          for (int i = 0; i < this->d_; ++i) index = index * alpha[i] * plain[i] + t.at[i] * alpha[i] + point.at[i];
          form.weight.push_back(index);
        } while (t.next());
      } while (point.next());
    }
    max_weights_ =
        std::max({max_weights_, static_cast<int64_t>(form.sources.size()), static_cast<int64_t>(form.weight.size())});
    most_plain_taps_ = std::max(most_plain_taps_, static_cast<int64_t>(form.taps.size()));
    auto found = steps_.find(kinds);
    if (found == steps_.end()) found = steps_.emplace(kinds, make_class_steps(sub)).first;
    form.steps = &found->second;
    forms_.push_back(std::move(form));
  }

  void make_input_steps() {
    std::vector<AxisMaps> maps(this->d_);
    Dims stride;
    for (int i = 0; i < this->d_; ++i) {
      const WinogradAxis& w = winograd_[i];
      stride.push_back(this->window_stride_[i] * w.spacing * this->pitch_);
      maps[i].in = w.window;
      maps[i].out = w.points;
      for (size_t k = 0; k < w.kinds.size(); ++k)
        maps[i].add(w.kinds[k].input, w.kinds[k].alpha, w.kinds[k].first, w.first_point[k]);
    }
    input_steps_ = make_steps(maps, stride);
  }

  Steps make_class_steps(const SubKernel& sub) const {
    std::vector<AxisMaps> output(this->d_), weights(this->d_);
    for (int i = 0; i < this->d_; ++i) {
      const WinogradKind& k = kind(i, sub);
      const WinogradAxis& w = winograd_[i];
      output[i].in = k.alpha;
      output[i].out = w.step;
      output[i].add(k.output, k.alpha, 0, 0);
      weights[i].in = w.groups * k.taps;
      weights[i].out = w.plain ? k.taps : w.groups * k.alpha;
      for (int64_t g = 0; g < w.groups; ++g) weights[i].add(k.weights, k.taps, g * k.taps, g * k.alpha);
    }
    return {make_steps(weights, row_major(weights, &AxisMaps::in)),
            make_steps(output, row_major(output, &AxisMaps::in))};
  }

  // Strides of lines that lie in the order of the axes.
  static Dims row_major(const std::vector<AxisMaps>& maps, int64_t AxisMaps::* lines) {
    Dims stride(maps.size(), 1);
    for (size_t i = maps.size() - 1; i > 0; --i) stride[i - 1] = stride[i] * maps[i].*lines;
    return stride;
  }

  std::vector<PlaneStep> make_steps(std::vector<AxisMaps> maps, Dims stride) const {
    std::vector<PlaneStep> steps;
    for (size_t done = 0; done < transformed_.size(); done += 2) {
      const int column = transformed_[done];
      const bool two = done + 1 < transformed_.size(), last = done + 2 >= transformed_.size();
      const int row = two ? transformed_[done + 1] : column;
      Dims others;
      for (int i = 0; i < this->d_; ++i) others.push_back(i == row || i == column ? 1 : maps[i].in);
      for (int axis : {row, column}) maps[axis].in = maps[axis].out;
      const Dims to = row_major(maps, &AxisMaps::in);
      const std::vector<typename AxisMaps::Piece> whole = {{LineMap::kCopy, 0, 0}};
      Odometer at(others);
      do {
        ptrdiff_t in = 0, out = 0;
        for (int i = 0; i < this->d_; ++i) in += at.at[i] * stride[i], out += at.at[i] * to[i];
        for (const auto& r : two ? maps[row].pieces : whole)
          for (const auto& c : maps[column].pieces)
            steps.push_back({this->k_.planes[static_cast<int>(r.map)].by_column[static_cast<int>(c.map)],
                             done == 0 ? 0 : 1 + static_cast<int>(done / 2 + 1) % 2,
                             last ? 3 : 1 + static_cast<int>(done / 2) % 2,
                             in + r.in * stride[row] + c.in * stride[column],
                             out + r.out * to[row] + c.out * to[column],
                             {stride[row], stride[column]},
                             {to[row], to[column]}});
      } while (at.next());
      stride = to;
    }
    return steps;
  }

  // Stride of arrays of n values that are read or written side by side: an odd number of cache lines, so that
  // they do not all meet in the same sets of the cache.
  static int64_t staggered(int64_t n) {
    constexpr int64_t kLine = 64 / sizeof(T);
    return ((n + kLine - 1) / kLine | 1) * kLine;
  }

  static void run(const std::vector<PlaneStep>& steps, const Place (&places)[4], int64_t n) {
    for (const PlaneStep& s : steps) {
      const Place &from = places[s.from], &to = places[s.to];
      s.map(from.at + s.in * from.unit, {s.in_plane.row * from.unit, s.in_plane.column * from.unit},
            to.at + s.out * to.unit, {s.out_plane.row * to.unit, s.out_plane.column * to.unit}, n);
    }
  }

  Group make_group(int64_t first) {
    Group group{first, {}};
    for (int64_t k = 0; k < last_classes_; ++k) {
      const SubKernel& sub = this->sub_kernels_[first + k];
      Dims alpha;
      for (int i = 0; i < this->d_; ++i) alpha.push_back(kind(i, sub).alpha);
      Odometer at(alpha);
      int64_t class_point = 0;
      do {
        int64_t point = 0;
        for (int i = 0; i < this->d_; ++i) {
          const auto& axis = winograd_[i];
          point = point * axis.points + axis.first_point[axis.kind_of_class[sub.classes[i]]] + at.at[i];
        }
        group.products.push_back({point, k, class_point++, 0});
      } while (at.next());
    }
    // By point, so that its transformed input is fetched once for all classes.
    std::stable_sort(group.products.begin(), group.products.end(),
                     [](const Product& l, const Product& r) { return l.point < r.point; });
    for (Product& p : group.products) {
      p.first_tap = total_products_;
      total_products_ += static_cast<int64_t>(forms_[first + p.last_class].taps.size());
    }
    return group;
  }

  bool run_task(int64_t index, const Weights& weights, const Tensors& t, char* memory) const override {
    const Task task = this->decode(index);
    Carver carver(memory);
    Scratch s(*this, carver);
    Dims tiles;
    for (int i = 0; i < this->d_; ++i) tiles.push_back(winograd_[i].tiles(task.extent[i]));
    const int64_t count = product(tiles), cg = this->cg_;

    this->load_window(task, t, s.window);
    const bool regular = weights.regular && this->k_.within(s.window, this->window_positions_ * this->pitch_, kLimit);
    if (regular) transform_input(task, tiles, s);
    int64_t located = 0;  // width of the blocks that the offsets in scratch are for
    for (int64_t b = task.block_begin; b < task.block_end; ++b) {
      const int64_t width = this->block_width(b), results = count * width, line = staggered(results);
      if (width != located) locate(task, tiles, line, located = width, s);
      const char* w = weights.packed + panel_offset(task.g, b) * this->weight_bytes_;
      GemmArgs<T> a{};
      a.x_offset = s.x_offset;
      a.acc_offset = s.acc_offset;
      a.channels = cg;
      a.count = count;
      for (const auto& group : groups_) {
        const int64_t class_stride = places_ * line;
        for (const Product& p : group.products) {
          if (!regular) break;
          const Form& form = forms_[group.first + p.last_class];
          a.taps = form.taps.data();
          a.ntaps = static_cast<int64_t>(form.taps.size());
          a.x = s.points + p.point * point_stride_;
          const char* product = w + p.first_tap * cg * width * this->weight_bytes_;
          const int64_t steps = a.ntaps * cg;
          const auto gemm = this->weigh(&a, product, steps * width, width, gemm_passes(count), s.converted);
          const int64_t bytes = steps * width * this->weight_bytes_;
          if (this->plan.fetch && steps > 0) this->fetch(&a, product + bytes, bytes, steps * gemm_passes(count));
          a.acc = s.products + (p.last_class * max_class_points_ + p.class_point) * line;
          gemm(a);
        }
        for (int64_t k = 0; k < last_classes_; ++k) {
          const SubKernel& sub = this->sub_kernels_[group.first + k];
          T* sums = s.sums + k * class_stride;
          if (regular)
            transform_output(*forms_[group.first + k].steps, s.products + k * max_class_points_ * line, sums, line,
                             results, s.pass);
          else sum_taps(sub, task, t, b, sums, s);
        }
        this->store(this->sub_kernels_[group.first], task, t, b, 0, last_classes_, s.sums, class_stride, s);
      }
    }
    return true;
  }

  // The sums of one sub-kernel tap by tap from the original weights: slow, for tiles that hold NaN, Inf or
  // values near overflow, which a transform would spread to neighbours they do not reach.
  void sum_taps(const SubKernel& sub, const Task& task, const Tensors& t, int64_t block, T* sums,
                const Scratch& s) const {
    const int64_t cg = this->cg_, mg = this->mg_, taps = product(this->problem.kernel);
    const S* w = static_cast<const S*>(t.w) + (task.g * cg * mg + block * this->plan.block) * taps;
    this->visit_rows(sub, task, [&](int64_t position, int64_t row, int64_t) {
      for (int64_t i = 0; i < task.extent.back(); ++i)
        for (int64_t m = 0; m < this->block_channels(block); ++m) {
          T sum = 0;
          for (size_t tap = 0; tap < sub.taps.size(); ++tap) {
            const T* x = s.window + (position + i) * this->pitch_ + sub.offsets[tap];
            for (int64_t c = 0; c < cg; ++c) {
              T weight;
              this->io_.load(w + (c * mg + m) * taps + sub.taps[tap], 1, &weight);
              sum += x[c] * weight;
            }
          }
          sums[s.row_offset[row] + s.column_offset[i] + m] = sum;
        }
    });
  }

  // Offsets of the GEMM's pixels, and of the sums, which lie as [class][position within a tile][tile]
  // [output channel].
  void locate(const Task& task, const Dims& tiles, int64_t line, int64_t width, Scratch& s) const {
    s.outputs_of = -1;  // made for other columns
    const int last = this->d_ - 1;
    Odometer lead(task.extent.begin(), task.extent.begin() + last);
    do {
      int64_t row = 0, within = 0, tile = 0;
      for (int i = 0; i < last; ++i) {
        row = row * this->plan.tile[i] + lead.at[i];
        within = within * winograd_[i].step + winograd_[i].place(lead.at[i]);
        tile = tile * tiles[i] + winograd_[i].tile(lead.at[i]);
      }
      s.row_offset[row] = within * winograd_[last].step * line + tile * tiles[last] * width;
    } while (lead.next());
    for (int64_t i = 0; i < task.extent[last]; ++i)
      s.column_offset[i] = winograd_[last].place(i) * line + winograd_[last].tile(i) * width;
    Odometer tile(tiles);
    int64_t i = 0;
    do {
      s.x_offset[i] = 0;
      for (int axis = 0; axis < this->d_; ++axis) {
        const WinogradAxis& w = winograd_[axis];
        s.x_offset[i] += (w.sliding ? w.position(tile.at[axis]) : tile.at[axis]) * input_stride_[axis];
      }
      s.acc_offset[i] = i * width;
      ++i;
    } while (tile.next());
  }

  // Tiles of the transformed input along an axis that is transformed, for so many of the output.
  static int64_t input_tiles(const WinogradAxis& w, int64_t tiles) {
    return w.sliding ? w.position(tiles - 1) + w.reach() + 1 : tiles;
  }

  // points[point][tile][channel] = (Bt x Bt x ...) window of the tile; on plain and sliding axes every window
  // position is a tile of its own.
  void transform_input(const Task& task, const Dims& tiles, const Scratch& s) const {
    Dims extents;
    for (int i = 0; i < this->d_; ++i) {
      const int64_t missing = this->window_[i].dense ? this->plan.tile[i] - task.extent[i] : 0;
      extents.push_back(winograd_[i].plain ? input_tiles_[i] - missing : input_tiles(winograd_[i], tiles[i]));
    }
    Odometer tile(extents);
    do {
      ptrdiff_t corner = 0, out = 0;
      for (int i = 0; i < this->d_; ++i) {
        const int64_t step = winograd_[i].sliding ? 1 : winograd_[i].step;
        corner += tile.at[i] * step * this->window_stride_[i] * this->pitch_;
        out += tile.at[i] * input_stride_[i];
      }
      for (int64_t c = 0; c < this->pitch_; c += kChannelsPerPass)
        run(input_steps_,
            {{s.window + corner + c, 1},
             {s.pass, kChannelsPerPass},
             {s.pass + pass_lines_ * kChannelsPerPass, kChannelsPerPass},
             {s.points + out + c, point_stride_}},
            std::min(kChannelsPerPass, this->pitch_ - c));
    } while (tile.next());
  }

  // sums[position][tile][channel] = (At x At x ...) products[point][tile][channel] of one sub-kernel.
  void transform_output(const Steps& steps, T* products, T* sums, int64_t line, int64_t results, T* pass) const {
    for (int64_t first = 0; first < results; first += kResultsPerPass)
      run(steps.output,
          {{products + first, line},
           {pass, kResultsPerPass},
           {pass + pass_lines_ * kResultsPerPass, kResultsPerPass},
           {sums + first, line}},
          std::min(kResultsPerPass, results - first));
  }

  Dims full_tiles_;
  std::vector<Group> groups_;
  std::vector<int> transformed_;     // axes, last first
  Dims input_tiles_, input_stride_;  // of the transformed input
  std::vector<Form> forms_;          // parallel to sub_kernels_
  std::vector<PlaneStep> input_steps_;
  std::map<std::vector<int>, Steps> steps_;  // by the kinds of a sub-kernel's axes
  int64_t last_classes_ = 0, points_ = 1, point_stride_ = 0, places_ = 1, pass_lines_ = 1, max_class_points_ = 1,
          max_weights_ = 1, most_plain_taps_ = 1,
          total_products_ = 0;  // total: taps included
};

}  // namespace

template <class S>
std::unique_ptr<Engine> make_winograd(const Problem& p, const Plan& plan, const KernelSet& set, int threads) {
  return std::make_unique<WinogradEngine<S>>(p, plan, set, threads);
}
ORT_TCONV_INSTANTIATE(make_winograd)

}  // namespace ort_tconv
