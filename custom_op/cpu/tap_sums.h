// Sums over the taps of a sub-kernel, or of several that are stacked: implicit matrix products of a tile's window
// with packed weights.  Internal to cpu/.
#pragma once

#include "core/product_time.h"
#include "cpu/block_engine.h"

namespace ort_tconv {

template <class S>
class TapSums : public BlockEngine<S> {
 protected:
  using Base = BlockEngine<S>;
  using typename Base::T;
  using typename Base::Task;

  TapSums(const Problem& p, const Plan& pl, const KernelSet& set, int threads) : Base(p, pl, set, threads) {
    const int64_t pixels = product(this->plan.tile);
    for (int64_t vectors = 1; vectors <= this->k_.max_vectors; ++vectors)
      for (int64_t n = 0; n <= pixels; ++n)
        times_.push_back(product_time(n, vectors, kMaxPixels) + gemm_passes(n) * vectors);
  }

  // Along each axis the taps that are summed, by falling offset; and the window position of each product of them,
  // in row-major order, in elements.
  struct Box {
    const std::vector<Tap>* taps[1 + kMaxSpatial];
    const std::vector<ptrdiff_t>* positions;
  };

  // Pixels and taps of matrix products, and room for weights of fewer bits.
  struct Lists {
    int64_t *x_offset, *acc_offset, *panels;
    ptrdiff_t* taps;
    T* converted;
    int64_t* listed;  // pixels along each axis, and their stride, that are listed from the first on; else -1 first
    Lists(const TapSums& e, int64_t most_taps, int64_t most_width, Carver& c) {
      x_offset = c.take<int64_t>(kKeptParts * product(e.plan.tile));
      acc_offset = c.take<int64_t>(kKeptParts * product(e.plan.tile));
      panels = c.take<int64_t>(kKeptParts * most_taps);
      taps = c.take<ptrdiff_t>(kKeptParts * most_taps);
      converted = e.take_converted(most_taps * std::min(e.plan.channel_chunk, e.cg_) * most_width, c);
      listed = c.take<int64_t>(2 + kMaxSpatial);
      if (listed) listed[0] = -1;
    }
  };

  // acc[pixel * stride + channel] = the sums for the first `owned` domain indices of the tile along each axis, where
  // a pixel is the index of a position in a full tile.  Weights are [chunk of channels][tap][channel][width].
  void sum(const Box& box, const int64_t* owned, const Task& task, const T* window, const char* w, int64_t width,
           T* acc, int64_t stride, const Lists& lists) const {
    const int64_t cg = this->cg_, chunk = this->plan.channel_chunk;
    const int64_t all_taps = static_cast<int64_t>(box.positions->size());
    int64_t pixels = 1;
    for (int i = 0; i < this->d_; ++i) pixels *= owned[i];
    if (pixels == 0) return;
    if (all_taps <= 1) return sum_tap(box, owned, pixels, window, w, width, acc, stride, lists);
    lists.listed[0] = -1;
    SpanList spans[1 + kMaxSpatial];
    int64_t parts[1 + kMaxSpatial], passes = 0;  // over the weights of a tap, all parts together
    bool added = false;                          // some pixels to several parts
    const int64_t vectors = width / this->k_.lanes;
    Price price{pixels, vectors, std::min(chunk, cg), times_.data() + (vectors - 1) * (product(this->plan.tile) + 1)};
    for (int i = 0; i < this->d_; ++i) {
      price.others /= owned[i];
      parts[i] = spans[i].find(this->axes_[i].in, *box.taps[i], task.q0[i], owned[i], price);
      price.others *= spans[i].most_pixels();
      added = added || spans[i].by_taps;
    }
    if (added) {  // to nothing
      list_pixels(kFirst, owned, stride, lists.x_offset, lists.acc_offset);
      for (int64_t p = 0; p < pixels; ++p) std::fill_n(acc + lists.acc_offset[p], width, T(0));
    }
    // What each part's product reads is listed once for all chunks of channels, if there are few parts.
    int64_t all_parts = 1;
    for (int i = 0; i < this->d_; ++i) all_parts *= parts[i];
    const bool keep = all_parts <= kKeptParts;
    Part kept[kKeptParts], *next = kept;
    int64_t listed_pixels = 0, listed_taps = 0;
    Odometer each(parts, parts + this->d_);
    do {
      const Part part = measure(spans, each.at, listed_pixels, listed_taps);
      passes += gemm_passes(part.pixels) * part.taps;
      if (!keep) continue;
      list(box, spans, each.at, stride, lists, part);
      *next++ = part;
      listed_pixels += part.pixels;
      listed_taps += part.taps;
    } while (each.next());
    GemmArgs<T> a{};
    a.acc = acc;
    for (int64_t c = 0; c == 0 || c < cg; c += chunk) {
      a.x = window + c;
      a.channels = std::min(chunk, cg - c);
      a.accumulate = added || c > 0;
      const int64_t weights = all_taps * a.channels * width;
      const auto gemm = this->weigh(&a, w, weights, width, passes / std::max<int64_t>(1, all_taps), lists.converted);
      w += weights * this->weight_bytes_;
      // The weights that follow are fetched while these are used: memory gives no more at a time.
      if (this->plan.fetch && passes > 0) this->fetch(&a, w, weights * this->weight_bytes_, passes * a.channels);
      Odometer at(parts, parts + this->d_);
      for (int64_t i = 0; i < all_parts; ++i, at.next()) {
        const Part part = keep ? kept[i] : measure(spans, at.at, 0, 0);
        if (!keep) list(box, spans, at.at, stride, lists, part);
        a.x_offset = lists.x_offset + part.first_pixel;
        a.acc_offset = lists.acc_offset + part.first_pixel;
        a.count = part.pixels;
        a.taps = lists.taps + part.first_tap;
        a.panels = lists.panels + part.first_tap;
        a.ntaps = part.taps;
        if (a.ntaps > 0) {
          gemm(a);
          if (a.ahead) a.ahead += gemm_passes(a.count) * a.ntaps * a.channels * a.ahead_step;
        } else if (!a.accumulate) {
          for (int64_t p = 0; p < a.count; ++p) std::fill_n(acc + a.acc_offset[p], width, T(0));
        }
      }
    }
  }

 private:
  // The sums of one tap, or none, for pixels that are all listed: those that meet no input read zeros.
  void sum_tap(const Box& box, const int64_t* owned, int64_t pixels, const T* window, const char* w, int64_t width,
               T* acc, int64_t stride, const Lists& lists) const {
    const int64_t cg = this->cg_, chunk = this->plan.channel_chunk, panel = 0;
    if (!std::equal(owned, owned + this->d_, lists.listed) || lists.listed[this->d_] != stride) {
      list_pixels(kFirst, owned, stride, lists.x_offset, lists.acc_offset);
      std::copy_n(owned, this->d_, lists.listed);
      lists.listed[this->d_] = stride;
    }
    GemmArgs<T> a{};
    a.x_offset = lists.x_offset;
    a.acc_offset = lists.acc_offset;
    a.count = pixels;
    a.taps = box.positions->data();
    a.panels = &panel;
    a.ntaps = static_cast<int64_t>(box.positions->size());
    a.acc = acc;
    const int64_t passes = gemm_passes(pixels);
    for (int64_t c = 0; c == 0 || c < cg; c += chunk) {
      a.x = window + c;
      a.channels = std::min(chunk, cg - c);
      a.accumulate = c > 0;
      const int64_t weights = a.ntaps * a.channels * width;
      const auto gemm = this->weigh(&a, w, weights, width, passes, lists.converted);
      w += weights * this->weight_bytes_;
      if (this->plan.fetch && weights > 0) this->fetch(&a, w, weights * this->weight_bytes_, passes * a.channels);
      gemm(a);
    }
  }

  // Consecutive domain indices of a tile, counted from its first, and the taps that meet an input at one of them.
  struct Span {
    int64_t begin, end, first_tap, last_tap;
    int64_t pixels() const { return end - begin; }
    int64_t taps() const { return std::max<int64_t>(0, last_tap - first_tap); }
  };

  // What a product costs, in multiply-adds of a vector.
  struct Price {
    int64_t others;  // pixels of the other axes that go with each index
    int64_t vectors, channels;
    const int64_t* times;  // of so many pixels, for each channel of a tap
    static constexpr int64_t kPart = 300;
    int64_t operator()(const Span& s) const {
      const int64_t n = s.pixels() * others;
      // Beside its blocks', each of which reads the weights: listing its pixels, first loads, last stores.
      return s.taps() * channels * times[n] + 4 * n * vectors + kPart;
    }
  };

  // Along one axis: a border's taps outside of the input are left out where that saves more than it costs to
  // handle its pixels by themselves; or each tap takes those pixels that it meets.
  struct SpanList {
    static constexpr int kMost = 8;
    Span at[kMost];
    int count = 0;
    bool by_taps = false;  // sums are those of all spans with a pixel

    int64_t find(int64_t in, const std::vector<Tap>& taps, int64_t q0, int64_t n, const Price& price) {
      const int64_t all = static_cast<int64_t>(taps.size());
      if (all <= 1) {  // a border without any tap is rare; zeros in the window serve it
        at[count++] = {0, n, 0, all};
        return count;
      }
      // Indices that meet all taps.
      const int64_t inner = std::clamp<int64_t>(-taps.back().offset - q0, 0, n);
      const int64_t outer = std::clamp<int64_t>(in - taps.front().offset - q0, inner, n);
      for (int64_t q = 0; q < n;) {
        if (q == inner && outer > inner) {
          add({inner, outer, 0, all});
          q = outer;
          continue;
        }
        int64_t first = 0, last = all;
        while (first < last && q0 + q + taps[first].offset >= in) ++first;
        while (last > first && q0 + q + taps[last - 1].offset < 0) --last;
        add({q, q + 1, first, last});
        ++q;
      }
      const bool border = count > 1;
      for (bool merged = true; merged && count > 1;) {
        merged = false;
        for (int i = 0; i + 1 < count; ++i) {
          const Span both = join(at[i], at[i + 1]);
          if (price(both) > price(at[i]) + price(at[i + 1])) continue;
          at[i] = both;
          std::copy(at + i + 2, at + count, at + i + 1);
          --count;
          merged = true;
          break;
        }
      }
      if (border && all <= kMost) {
        SpanList each;
        each.by_taps = true;
        int64_t alone = 0, together = 0;
        for (int t = 0; t < all; ++t) {
          const int64_t begin = std::clamp<int64_t>(-taps[t].offset - q0, 0, n);
          const int64_t end = std::clamp<int64_t>(in - taps[t].offset - q0, begin, n);
          if (begin == end) continue;
          each.at[each.count] = {begin, end, t, t + 1};
          alone += price(each.at[each.count++]);
        }
        for (int i = 0; i < count; ++i) together += price(at[i]);
        if (each.count > 0 && alone < together) *this = each;
      }
      return count;
    }

    int64_t most_pixels() const {
      int64_t most = 1;
      for (int i = 0; i < count; ++i) most = std::max(most, at[i].pixels());
      return most;
    }

   private:
    void add(const Span& s) {
      Span* last = count > 0 ? &at[count - 1] : nullptr;
      if (last && (count == kMost || (last->first_tap == s.first_tap && last->last_tap == s.last_tap)))
        *last = join(*last, s);
      else at[count++] = s;
    }
    static Span join(const Span& l, const Span& r) {
      if (l.taps() == 0) return {l.begin, r.end, r.first_tap, r.last_tap};
      if (r.taps() == 0) return {l.begin, r.end, l.first_tap, l.last_tap};
      return {l.begin, r.end, std::min(l.first_tap, r.first_tap), std::max(l.last_tap, r.last_tap)};
    }
  };

  // One part, a span of each axis: a matrix product, whose pixels and taps are listed from here on.
  struct Part { int64_t first_pixel, pixels, first_tap, taps; };
  static constexpr int kKeptParts = 4;

  Part measure(const SpanList* spans, const int64_t* part, int64_t first_pixel, int64_t first_tap) const {
    Part p = {first_pixel, 1, first_tap, 1};
    for (int i = 0; i < this->d_; ++i) {
      p.pixels *= spans[i].at[part[i]].pixels();
      p.taps *= spans[i].at[part[i]].taps();
    }
    return p;
  }

  // So many pixels along each axis, from one on.
  static constexpr int64_t kFirst[1 + kMaxSpatial] = {};
  void list_pixels(const int64_t* begins, const int64_t* pixels, int64_t stride, int64_t* x_offset,
                   int64_t* acc_offset) const {
    const int last = this->d_ - 1;
    Odometer pixel(pixels, pixels + last);
    do {
      int64_t position = 0, index = 0;
      for (int i = 0; i < last; ++i) {
        const int64_t q = begins[i] + pixel.at[i];
        position += q * this->window_stride_[i];
        index = index * this->plan.tile[i] + q;
      }
      for (int64_t q = begins[last]; q < begins[last] + pixels[last]; ++q) {
        *x_offset++ = (position + q) * this->pitch_;
        *acc_offset++ = (index * this->plan.tile[last] + q) * stride;
      }
    } while (pixel.next());
  }

  void list(const Box& box, const SpanList* spans, const int64_t* part, int64_t stride, const Lists& lists,
            const Part& p) const {
    int64_t begins[1 + kMaxSpatial], pixels[1 + kMaxSpatial], taps[1 + kMaxSpatial];
    for (int i = 0; i < this->d_; ++i) {
      begins[i] = spans[i].at[part[i]].begin;
      pixels[i] = spans[i].at[part[i]].pixels();
      taps[i] = spans[i].at[part[i]].taps();
    }
    list_pixels(begins, pixels, stride, lists.x_offset + p.first_pixel, lists.acc_offset + p.first_pixel);
    if (p.taps == 0) return;
    Odometer tap(taps, taps + this->d_);
    int64_t t = p.first_tap;
    do {
      int64_t index = 0;
      for (int i = 0; i < this->d_; ++i)
        index = index * static_cast<int64_t>(box.taps[i]->size()) + spans[i].at[part[i]].first_tap + tap.at[i];
      lists.panels[t] = index;
      lists.taps[t++] = (*box.positions)[index];
    } while (tap.next());
  }

  std::vector<int64_t> times_;  // by vectors of output channels and pixels, product_time and the loads of weights
};

}  // namespace ort_tconv
