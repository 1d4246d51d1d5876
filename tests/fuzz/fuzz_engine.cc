// Fuzz target: attributes x shapes x element types x algorithms x instruction sets x machines, each run
// of the engine against the float64 reference, with an error bound that rounding explains.  Scratch memory
// and results start as NaN, so that a value which is read but never written shows.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "core/reference.h"
#include "core/status.h"
#include "cpu/arch.h"
#include "cpu/run.h"
#include "fuzz/values.h"

using namespace ort_tconv;
using namespace ort_tconv::fuzz;

namespace {

constexpr int64_t kMostMacs = 20000, kMostOutputs = 4000;

struct Counts {
  int64_t run = 0, refused = 0;
  ~Counts() {
    std::fprintf(stderr, "fuzz_engine: %lld cases compared, %lld refused\n", static_cast<long long>(run),
                 static_cast<long long>(refused));
  }
} counts;

// Scratch memory full of NaN, from malloc, where the address sanitizer guards its ends.
class Serial final : public Executor {
 public:
  void parallel(int64_t n, const std::function<void(int64_t)>& fn) override {
    for (int64_t i = n; i-- > 0;) fn(i);
  }
  void* allocate(size_t bytes) override {
    void* p = std::malloc(bytes);
    if (!p) throw std::bad_alloc();
    std::memset(p, 0xFF, bytes);
    return p;
  }
  void release(void* p) override { std::free(p); }
};

enum class Values { kUniform, kIntegers, kScales, kTiny, kNonFiniteInputs, kNonFinite, kCount };

struct Case {
  Attributes attributes;
  InputShapes shapes;
  DType dtype;
  std::string isa, algorithm;
  Machine machine;
  Values values;
  uint64_t seed;
};

// Rising, so that small changes of a byte are small changes of a case.
constexpr int64_t kChannels[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 40, 48, 63, 65, 80, 0};

Dims each(Reader& r, int axes, int64_t low, int64_t high) {
  Dims v;
  for (int i = 0; i < axes; ++i) v.push_back(r.between(low, high));
  return v;
}

int64_t volume(const Dims& v) {
  int64_t n = 1;
  for (int64_t e : v) n *= std::max<int64_t>(1, e);
  return n;
}

const std::vector<std::string>& isas() {
  static const std::vector<std::string> all = [] {
    std::vector<std::string> names = supported_isas();
    for (const auto& name : emulated_isas()) names.push_back(name);
    return names;
  }();
  return all;
}

Case draw(Reader& r) {
  Case c;
  const int kind = r.byte();  // choices first: they matter more than sizes
  c.dtype = static_cast<DType>(kind % 4);
  c.algorithm = std::vector<std::string>{"auto", "direct", "narrow", "winograd"}[kind / 4 % 4];
  c.isa = isas()[r.byte() % isas().size()];
  c.values = static_cast<Values>(r.pick(static_cast<int>(Values::kCount)));
  c.seed = r.byte();
  c.machine = machine(kernel_set(c.isa), 1 + r.pick(6));
  c.machine.l2_bytes = int64_t{1} << (12 + r.pick(10));
  c.machine.l3_bytes = int64_t{1} << (12 + r.pick(14));
  c.machine.l3_sharers = 1;

  const int axes = 1 + r.pick(4);
  Attributes& a = c.attributes;
  Dims kernel = each(r, axes, 1, axes == 1 ? 40 : axes == 2 ? 7 : 4);
  Dims in = each(r, axes, 1, axes == 1 ? 90 : axes == 2 ? 20 : 6);
  a.strides = each(r, axes, 1, axes == 1 ? 20 : 5);
  int64_t group = 1, group_in = r.one_of(kChannels), group_out = r.one_of(kChannels);
  const int given = r.byte();
  if (given & 1) a.dilations = each(r, axes, 1, 5);
  if (given & 2) group = r.between(1, 12);
  const int64_t batch = given & 4 ? r.between(0, 5) : 1;
  // Within reach of the slow reference: the largest size gives way.
  const auto macs = [&] {
    return volume(in) * volume(kernel) * group * std::max<int64_t>(1, group_in) * std::max<int64_t>(1, group_out) *
           std::max<int64_t>(1, batch);
  };
  while (macs() > kMostMacs) {
    int64_t* most = &group_in;
    for (int64_t* v : {&group_out, &group})
      if (*v > *most) most = v;
    for (auto& v : in)
      if (v > *most) most = &v;
    for (auto& v : kernel)
      if (v > *most) most = &v;
    *most = (*most + 1) / 2;
  }
  for (int i = 0; i < axes; ++i)
    while (a.strides[i] > 1 && volume(a.strides) * volume(in) * group * group_out > kMostOutputs) --a.strides[i];
  a.group = group;
  if (given & 8) {
    for (int i = 0; i < axes; ++i) {
      const int64_t dilation = a.dilations.empty() ? 1 : a.dilations[i];
      a.output_padding.push_back(r.byte() % std::max(a.strides[i], dilation));
    }
  }
  const auto full = [&](int i) {
    const int64_t dilation = a.dilations.empty() ? 1 : a.dilations[i];
    return (in[i] - 1) * a.strides[i] + (kernel[i] - 1) * dilation + 1 +
           (a.output_padding.empty() ? 0 : a.output_padding[i]);
  };
  if (given & 16)
    for (int side = 0; side < 2; ++side)
      for (int i = 0; i < axes; ++i) a.pads.push_back(r.byte() % (full(i) / 2 + 1));
  if (given & 32) {
    static const char* const kinds[] = {"SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"};
    a.auto_pad = r.one_of(kinds);
  }
  if (given & 64 && given & 128)
    for (int i = 0; i < axes; ++i) a.output_shape.push_back(r.byte() % (full(i) + 3));
  const int epilogue = r.byte();
  static const char* const activations[] = {"",        "Relu",     "LeakyRelu",   "PRelu",     "Clip",
                                            "Sigmoid", "Tanh",     "HardSigmoid", "HardSwish", "Silu",
                                            "Elu",     "Softplus", "Gelu",        "GeluTanh"};
  a.activation = epilogue & 1 ? r.one_of(activations) : "";
  if (a.activation == "Clip") a.activation_params = {-0.75f, 1.5f};
  if (a.activation == "PRelu") {
    Random slopes(c.seed);
    for (int64_t m = 0; m < (epilogue & 8 ? group * group_out : 1); ++m)
      a.activation_params.push_back(static_cast<float>(slopes.uniform()));
  }
  c.shapes.x = {batch, group * group_in};
  c.shapes.w = {group * group_in, group_out};
  c.shapes.x.insert(c.shapes.x.end(), in.begin(), in.end());
  c.shapes.w.insert(c.shapes.w.end(), kernel.begin(), kernel.end());
  if (epilogue & 2) c.shapes.b = Dims{group * group_out};
  if (epilogue & 4) c.shapes.z = make_problem(a, c.shapes).y_shape();
  return c;
}

std::vector<double> draw_values(const Case& c, const std::optional<Dims>& shape, char which, Random& random) {
  std::vector<double> v(shape ? static_cast<size_t>(element_count(*shape, "input")) : 0);
  const bool half = c.dtype == DType::kFloat16;
  for (auto& e : v) {
    const double u = random.uniform();
    switch (c.values) {
      case Values::kIntegers: e = std::nearbyint(u * 4); break;
      case Values::kScales:
        e = std::ldexp(u, static_cast<int>(random.next() % (half ? 8 : 40)) - (half ? 4 : 20));
        break;
      // Subnormal in most types, and products that underflow.
      case Values::kTiny: e = std::ldexp(u, which == 'w' ? -2 : format(c.dtype).least + 1); break;
      default: e = u;
    }
    const bool some = c.values == Values::kNonFinite || (c.values == Values::kNonFiniteInputs && which == 'x');
    if (some && random.next() % 23 == 0) {
      constexpr double kinds[] = {NAN, INFINITY, -INFINITY};
      e = kinds[random.next() % 3];
    }
    e = rounded(c.dtype, e);
  }
  return v;
}

std::vector<double> magnitudes(std::vector<double> v) {
  for (auto& e : v) e = std::isfinite(e) ? std::fabs(e) : 0;
  return v;
}

const double* pointer(const std::vector<double>& v, const std::optional<Dims>& shape) {
  return shape ? v.data() : nullptr;
}

[[noreturn]] void report(const Case& c, const Prepared& prepared, const std::string& what) {
  const Attributes& a = c.attributes;
  std::fprintf(
      stderr,
      "MISMATCH %s\n  %s %s threads %d l2 %lld l3 %lld values %d seed %d\n  %s\n  x %s w %s b %d z %d group %lld\n"
      "  strides %s dilations %s pads %s output_padding %s output_shape %s auto_pad %s activation %s\n",
      what.c_str(), c.isa.c_str(), name(c.dtype), c.machine.threads, (long long)c.machine.l2_bytes,
      (long long)c.machine.l3_bytes, static_cast<int>(c.values), static_cast<int>(c.seed),
      prepared.plan().describe().c_str(), concat(c.shapes.x).c_str(), concat(c.shapes.w).c_str(), bool(c.shapes.b),
      bool(c.shapes.z), (long long)a.group, concat(a.strides).c_str(), concat(a.dilations).c_str(),
      concat(a.pads).c_str(), concat(a.output_padding).c_str(), concat(a.output_shape).c_str(), a.auto_pad.c_str(),
      a.activation.c_str());
  std::abort();
}

// Greatest slope of the activation; 0 for those that copy or compare only.
double slope(const Activation& act) {
  if (act.kind == ActivationKind::kNone || act.kind == ActivationKind::kRelu || act.kind == ActivationKind::kClip)
    return 0;
  return 1.5;  // HardSwish; Gelu has 1.13, and the parameters drawn here are smaller
}

// The bounds of tests/cpu/forced.py: sums in any order (Higham, section 3.1), with Winograd's transforms
// growing them by 6 an axis; the activation; the storage.
std::vector<double> bounds(const Case& c, const Problem& p, const Plan& plan, const std::vector<double>& x,
                           const std::vector<double>& w, const std::vector<double>& b, const std::vector<double>& z,
                           const std::vector<double>& expected) {
  Problem plain = p;
  plain.activation = {};
  const auto ax = magnitudes(x), aw = magnitudes(w), ab = magnitudes(b), az = magnitudes(z);
  std::vector<double> size = reference(plain, ax.data(), aw.data(), pointer(ab, c.shapes.b), pointer(az, c.shapes.z));
  const int64_t taps = volume(p.kernel), in = volume(p.in), out = element_count(p.out, "out");
  double roundings = static_cast<double>(p.group_in() * taps + 2);
  if (plan.algorithm == Algorithm::kWinograd) {
    roundings += 6 * p.rank();
    const double growth = std::pow(6, p.rank());
    for (int64_t n = 0; n < p.batch; ++n)
      for (int64_t ch = 0; ch < p.channels; ++ch) {
        const auto image = ax.begin() + (n * p.channels + ch) * in;
        const double most = *std::max_element(image, image + in);
        for (int64_t m = 0; m < p.group_out(); ++m) {
          const auto tap = aw.begin() + (ch * p.group_out() + m) * taps;
          double sum = 0;
          for (int64_t t = 0; t < taps; ++t) sum += tap[t];
          const int64_t channel = ch / p.group_in() * p.group_out() + m;
          for (int64_t o = 0; o < out; ++o) size[(n * p.out_channels + channel) * out + o] += growth * most * sum;
        }
      }
  }
  const double u = is_double(c.dtype) ? 0x1p-53 : 0x1p-24;
  const double storage = c.dtype == DType::kFloat16 ? 0x1p-11 : c.dtype == DType::kBFloat16 ? 0x1p-8 : u;
  const double gamma = roundings * u / (1 - roundings * u), steep = slope(p.activation);
  // Each product, and each value that passes the transforms, may round below the smallest normal number.
  const double underflow =
      roundings * std::pow(6, p.rank()) * 2 * half_subnormal(is_double(c.dtype) ? c.dtype : DType::kFloat32);
  for (size_t i = 0; i < size.size(); ++i) {
    double error = gamma * size[i] + underflow;
    if (steep > 0) error = steep * (error + 16 * u * (size[i] + 1));
    const double y = std::isfinite(expected[i]) ? std::fabs(expected[i]) : 0;
    size[i] = error + storage * (y + error) + half_subnormal(c.dtype);
    if (is_double(c.dtype)) size[i] *= 2;  // the reference rounds, too
  }
  return size;
}

void run(Reader& r) {
  const Case c = draw(r);
  const Problem p = make_problem(c.attributes, c.shapes);
  if (element_count(p.y_shape(), "y") > 4 * kMostOutputs) throw Error("too large");
  const Prepared prepared(p, c.dtype, kernel_set(c.isa), c.machine, c.algorithm);

  Random random(c.seed + 1000 * static_cast<uint64_t>(c.values));
  const auto x = draw_values(c, c.shapes.x, 'x', random), w = draw_values(c, c.shapes.w, 'w', random);
  const auto b = draw_values(c, c.shapes.b, 'b', random), z = draw_values(c, c.shapes.z, 'z', random);
  const auto expected = reference(p, x.data(), w.data(), pointer(b, c.shapes.b), pointer(z, c.shapes.z));
  const auto xs = stored(c.dtype, x), ws = stored(c.dtype, w), bs = stored(c.dtype, b), zs = stored(c.dtype, z);
  const size_t element = storage_bytes(c.dtype);
  std::vector<char> y(expected.size() * element, '\xFF'), again(y);
  Serial executor;
  const auto packed = prepared.pack(ws.data());
  const auto call = [&](std::vector<char>& result) {
    prepared.run(
        *packed,
        {xs.data(), ws.data(), c.shapes.b ? bs.data() : nullptr, c.shapes.z ? zs.data() : nullptr, result.data()},
        executor);
  };
  call(y);
  call(again);
  if (y != again) report(c, prepared, "two runs differ");

  const auto bound = bounds(c, p, prepared.plan(), x, w, b, z, expected);
  for (size_t i = 0; i < expected.size(); ++i) {
    const double actual = fetch(c.dtype, y.data() + i * element), wanted = expected[i];
    const bool may_overflow = std::fabs(wanted) + bound[i] > greatest(c.dtype);
    const bool good = std::isnan(wanted)                   ? std::isnan(actual)
                      : std::isinf(wanted)                 ? actual == wanted
                      : may_overflow && std::isinf(actual) ? std::signbit(actual) == std::signbit(wanted)
                                                           : std::fabs(actual - wanted) <= bound[i];
    if (!good) report(c, prepared, concat("output ", i, " is ", actual, " instead of ", wanted, ", bound ", bound[i]));
  }
  ++counts.run;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Reader reader(data, size);
  try {
    run(reader);
  } catch (const Error&) {
    ++counts.refused;
  }
  return 0;
}
