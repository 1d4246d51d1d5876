#include "cpu/exact.h"

#include <algorithm>
#include <atomic>
#include <new>

#include "core/status.h"
#include "cpu/engine.h"

namespace ort_tconv {
namespace {

// Inf and NaN are the values whose exponent bits are all ones.
template <class U>
bool none_has(const void* values, int64_t n, U exponent) {
  const U* bits = static_cast<const U*>(values);
  U any = 0;
  for (int64_t i = 0; i < n; ++i) any |= (bits[i] & exponent) == exponent;
  return !any;
}

template <class S>
class Definition {
 public:
  using T = typename ComputeType<S>::type;

  Definition(const Problem& p, const KernelSet& set, const Tensors& t)
      : p_(p), io_(storage_kernels<S>(set)), t_(t), last_(p.rank() - 1), in_size_(product(p.in)),
        out_size_(product(p.out)), taps_(product(p.kernel)) {}

  // One channel of one image.
  void plane(int64_t n, int64_t m) const {
    const Dims lead(p_.out.begin(), p_.out.end() - 1);
    Odometer o(lead);
    int64_t out_row = (n * p_.out_channels + m) * out_size_;
    do {
      for (int64_t o0 = 0; o0 < p_.out[last_]; o0 += kChunk) row(n, m, o.at, out_row, o0);
      out_row += p_.out[last_];
    } while (o.next());
  }

 private:
  static constexpr int64_t kChunk = 512;

  // Outputs o0 .. of the row at `lead`, which starts at element `out_row` of Y.
  void row(int64_t n, int64_t m, const int64_t* lead, int64_t out_row, int64_t o0) const {
    const int64_t count = std::min(kChunk, p_.out[last_] - o0);
    T sums[kChunk] = {};
    Odometer tap(Dims(p_.kernel.begin(), p_.kernel.end() - 1));
    do {
      int64_t in_row = 0, tap_row = 0;
      bool meets = true;
      for (int a = 0; a < last_ && meets; ++a) {
        const int64_t at = lead[a] + p_.pad_begin[a] - tap.at[a] * p_.dilation[a], i = at / p_.stride[a];
        meets = at >= 0 && at % p_.stride[a] == 0 && i < p_.in[a];
        in_row = in_row * p_.in[a] + i;
        tap_row = tap_row * p_.kernel[a] + tap.at[a];
      }
      if (meets) add(n, m, in_row * p_.in[last_], tap_row * p_.kernel[last_], o0, count, sums);
    } while (tap.next());
    finish(io_, p_, t_, m, sums, {count, 1, 0, 0}, out_row + o0, 0);
  }

  // Adds what the input row and kernel row at these offsets give to outputs o0 .. o0+count-1.
  void add(int64_t n, int64_t m, int64_t in_row, int64_t tap_row, int64_t o0, int64_t count, T* sums) const {
    const int64_t s = p_.stride[last_], cg = p_.group_in(), mg = p_.group_out(), g = m / mg;
    for (int64_t t = 0; t < p_.kernel[last_]; ++t) {
      const int64_t first = o0 + p_.pad_begin[last_] - t * p_.dilation[last_];  // the input position of o0, times s
      const int64_t i0 = std::max<int64_t>(0, ceil_div(first, s));
      const int64_t i1 = std::min(p_.in[last_], ceil_div(first + count, s));
      if (i0 >= i1) continue;
      for (int64_t c = g * cg; c < (g + 1) * cg; ++c) {
        T w, x[kChunk];
        io_.load(static_cast<const S*>(t_.w) + (c * mg + m - g * mg) * taps_ + tap_row + t, 1, &w);
        io_.load(static_cast<const S*>(t_.x) + (n * p_.channels + c) * in_size_ + in_row + i0, i1 - i0, x);
        for (int64_t i = i0; i < i1; ++i) sums[i * s - first] += x[i - i0] * w;
      }
    }
  }

  const Problem& p_;
  const StorageKernels<S>& io_;
  const Tensors& t_;
  int last_;
  int64_t in_size_, out_size_, taps_;
};

template <class S>
void run_by_definition(const Problem& p, const KernelSet& set, const Tensors& t, Executor& executor) {
  if (product(p.y_shape()) == 0) return;
  const Definition<S> definition(p, set, t);
  std::atomic<bool> failed{false};  // the only failure is a small allocation's
  executor.parallel(p.batch * p.out_channels, [&](int64_t i) {
    try {
      definition.plane(i / p.out_channels, i % p.out_channels);
    } catch (...) {
      failed = true;
    }
  });
  if (failed) throw std::bad_alloc();
}

}  // namespace

bool all_finite(DType dtype, const void* values, int64_t n) {
  switch (dtype) {
    case DType::kFloat32: return none_has<uint32_t>(values, n, 0x7F800000);
    case DType::kFloat64: return none_has<uint64_t>(values, n, 0x7FF0000000000000);
    case DType::kFloat16: return none_has<uint16_t>(values, n, 0x7C00);
    case DType::kBFloat16: return none_has<uint16_t>(values, n, 0x7F80);
  }
  fail("unknown element type");
}

void run_by_definition(const Problem& p, DType dtype, const KernelSet& set, const Tensors& t, Executor& executor) {
  switch (dtype) {
    case DType::kFloat32: return run_by_definition<float>(p, set, t, executor);
    case DType::kFloat64: return run_by_definition<double>(p, set, t, executor);
    case DType::kFloat16: return run_by_definition<Half>(p, set, t, executor);
    case DType::kBFloat16: return run_by_definition<BFloat16>(p, set, t, executor);
  }
  fail("unknown element type");
}

}  // namespace ort_tconv
