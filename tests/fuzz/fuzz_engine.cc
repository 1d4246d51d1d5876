// Fuzz target: attributes x shapes x element types x forms of weights x algorithms x instruction sets x machines, each
// run of the engine against the float64 reference, with an error bound that rounding explains.  Scratch memory and
// results start as NaN, so that a value which is read but never written shows.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <string>

#include "core/reference.h"
#include "core/status.h"
#include "cpu/arch.h"
#include "cpu/integer_weights.h"
#include "cpu/run.h"
#include "fuzz/problems.h"

using namespace ort_tconv;
using namespace ort_tconv::fuzz;

namespace {

Counts counts("fuzz_engine");

enum class Values { kUniform, kIntegers, kScales, kTiny, kNonFiniteInputs, kNonFinite, kCount };

// An element type, and how weights of it are kept.
struct Kept {
  DType dtype;
  WeightStorage weights = WeightStorage::kCompute;
};
constexpr Kept kKept[] = {{DType::kFloat32},
                          {DType::kFloat64},
                          {DType::kFloat16},
                          {DType::kBFloat16},
                          {DType::kFloat32, WeightStorage::kFloat16},
                          {DType::kFloat32, WeightStorage::kBFloat16},
                          {DType::kFloat32, WeightStorage::kInt8}};
constexpr int kForms = static_cast<int>(std::size(kKept));
const char* const kAlgorithmNames[] = {"auto", "direct", "stacked", "narrow", "winograd"};
constexpr int kChoices = static_cast<int>(std::size(kAlgorithmNames));

struct Case {
  Attributes attributes;
  InputShapes shapes;
  DType dtype;
  WeightStorage weights;
  bool constant_weights;
  bool beyond = false;  // a weight does not fit the form that it is to be kept in
  std::string isa, algorithm;
  Machine machine;
  Values values;
  uint64_t seed;
};

const std::vector<std::string>& isas() {
  static const std::vector<std::string> all = [] {
    std::vector<std::string> names = supported_isas();
    for (const auto& name : emulated_isas()) names.push_back(name);
    return names;
  }();
  return all;
}

// Of what int8 stands for; some are negative, and some are 0.
std::vector<float> draw_scales(const Case& c, int64_t count) {
  Random random(c.seed + 77);
  std::vector<float> scales(static_cast<size_t>(count));
  for (auto& scale : scales) {
    const int exponent = c.values == Values::kTiny     ? -142
                         : c.values == Values::kScales ? static_cast<int>(random.next() % 24) - 16
                                                       : -6;
    const double u = random.uniform();
    scale = random.next() % 8 ? static_cast<float>(rounded(DType::kFloat32, std::ldexp(u, exponent))) : 0;
  }
  return scales;
}

Case draw(Reader& r) {
  Case c;
  const int kind = r.byte();  // choices first: they matter more than sizes
  c.dtype = kKept[kind % kForms].dtype;
  c.weights = kKept[kind % kForms].weights;
  c.algorithm = kAlgorithmNames[kind / kForms % kChoices];
  c.constant_weights = kind / kForms / kChoices % 4 != 3;
  c.isa = isas()[r.byte() % isas().size()];
  c.values = static_cast<Values>(r.pick(static_cast<int>(Values::kCount)));
  c.seed = r.byte();
  c.machine = machine(kernel_set(c.isa), 1 + r.pick(6));
  c.machine.l2_bytes = int64_t{1} << (12 + r.pick(10));
  c.machine.l3_bytes = int64_t{1} << (12 + r.pick(14));
  c.machine.l3_sharers = 1;

  draw_shapes(r, c.attributes, c.shapes);
  Attributes& a = c.attributes;
  const int64_t out_channels = a.group * c.shapes.w[1];
  const int epilogue = r.byte();
  static const char* const activations[] = {"",        "Relu",     "LeakyRelu",   "PRelu",     "Clip",
                                            "Sigmoid", "Tanh",     "HardSigmoid", "HardSwish", "Silu",
                                            "Elu",     "Softplus", "Gelu",        "GeluTanh"};
  a.activation = epilogue & 1 ? r.one_of(activations) : "";
  if (a.activation == "Clip") a.activation_params = {-0.75f, 1.5f};
  if (a.activation == "PRelu") {
    Random slopes(c.seed);
    for (int64_t m = 0; m < (epilogue & 8 ? out_channels : 1); ++m)
      a.activation_params.push_back(static_cast<float>(slopes.uniform()));
  }
  if (c.weights != WeightStorage::kCompute) a.weights = name(c.weights);
  if (c.weights == WeightStorage::kInt8 && epilogue & 16)
    a.weight_scales = draw_scales(c, epilogue & 32 ? out_channels : 1);
  const bool has_range = c.weights == WeightStorage::kFloat16 || !a.weight_scales.empty();
  c.beyond = has_range && (epilogue & 192) == 192;
  if (epilogue & 2) c.shapes.b = Dims{out_channels};
  if (epilogue & 4) c.shapes.z = make_problem(a, c.shapes).y_shape();
  return c;
}

std::vector<double> draw_values(const Case& c, const std::optional<Dims>& shape, char which, Random& random) {
  std::vector<double> v(shape ? static_cast<size_t>(element_count(*shape, "input")) : 0);
  const bool half = c.dtype == DType::kFloat16 || (which == 'w' && c.weights == WeightStorage::kFloat16);
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

// The output channel of each weight.
std::vector<int64_t> channels_of_weights(const Problem& p) {
  const int64_t taps = volume(p.kernel), mg = p.group_out();
  std::vector<int64_t> channels(static_cast<size_t>(p.channels * mg * taps));
  for (int64_t i = 0; i < static_cast<int64_t>(channels.size()); ++i)
    channels[i] = i / (mg * taps) / p.group_in() * mg + i / taps % mg;
  return channels;
}

std::vector<double> draw_weights(const Case& c, const Problem& p, Random& random) {
  std::vector<double> w = draw_values(c, c.shapes.w, 'w', random);
  const std::vector<float>& scales = p.weight_scales;
  const auto channels = channels_of_weights(p);
  const auto scale = [&](size_t i) -> double { return scales[scales.size() == 1 ? 0 : channels[i]]; };
  // Multiples of their scale, or nearly so.
  for (size_t i = 0; i < w.size() && !scales.empty(); ++i) {
    const double off = c.seed & 1 ? 0.49 * random.uniform() : 0, multiple = std::floor(random.uniform() * 128);
    if (std::isfinite(w[i])) w[i] = rounded(c.dtype, std::clamp(multiple + off, -128.0, 127.0) * scale(i));
  }
  if (c.beyond && !w.empty()) {
    const size_t i = random.next() % w.size();
    w[i] = scales.empty() ? 7e4 : scale(i) == 0 ? 1 : rounded(c.dtype, 200 * scale(i));
  }
  return w;
}

bool all_finite(const std::vector<double>& v) {
  return std::all_of(v.begin(), v.end(), [](double e) { return std::isfinite(e); });
}

// Whether the engine keeps the weights in the form that is asked for.
bool keeps(const Case& c, const Plan& plan, const std::vector<double>& w) {
  return c.weights != WeightStorage::kCompute && c.constant_weights && plan.algorithm != Algorithm::kNarrow &&
         all_finite(w);
}

DType of_16_bits(WeightStorage storage) {
  return storage == WeightStorage::kFloat16 ? DType::kFloat16 : DType::kBFloat16;
}

[[noreturn]] void report(const Case& c, const Prepared& prepared, const std::string& what);

// What the weights stand for that the engine multiplies.  Winograd's are rounded after they were summed: see bounds().
std::vector<double> kept_weights(const Case& c, const Problem& p, const Prepared& prepared, std::vector<double> w) {
  if (!keeps(c, prepared.plan(), w) || prepared.plan().algorithm == Algorithm::kWinograd) return w;
  if (c.weights != WeightStorage::kInt8) {
    for (auto& e : w) e = rounded(of_16_bits(c.weights), e);
    return w;
  }
  const std::vector<float> given(w.begin(), w.end());
  const IntegerWeights integers = integer_weights(p, given.data());
  const float* const values = static_cast<const float*>(integers.values.data.get());
  const auto channels = channels_of_weights(p);
  for (size_t i = 0; i < w.size(); ++i) {
    const double scale = integers.scales[channels[i]], was = w[i];
    w[i] = values[i] * scale;
    // Half a scale, and the rounding of the quotient.
    const bool good = values[i] == std::nearbyint(values[i]) && values[i] >= -128 && values[i] <= 127 &&
                      std::fabs(w[i] - was) <= (0.5 + 0x1p-16) * std::fabs(scale);
    if (!good) report(c, prepared, concat("weight ", i, ", ", was, ", is kept as ", values[i], " times ", scale));
  }
  return w;
}

std::vector<double> magnitudes(std::vector<double> v) {
  for (auto& e : v) e = std::isfinite(e) ? std::fabs(e) : 0;
  return v;
}

const double* pointer(const std::vector<double>& v, const std::optional<Dims>& shape) {
  return shape ? v.data() : nullptr;
}

[[noreturn]] void report(const Case& c, const Prepared& prepared, const std::string& what) {
  std::fprintf(stderr, "MISMATCH %s\n",
               concat(what, "\n  ", c.isa, " ", name(c.dtype), " weights ", name(c.weights), " of ",
                      c.attributes.weight_scales.size(), " scales, constant ", c.constant_weights, ", beyond ",
                      c.beyond, " threads ", c.machine.threads, " l2 ", c.machine.l2_bytes, " l3 ", c.machine.l3_bytes,
                      " values ", static_cast<int>(c.values), " seed ", c.seed, "\n  ", prepared.plan().describe(),
                      "\n  ", geometry(c.attributes, c.shapes), " b ", bool(c.shapes.b), " z ", bool(c.shapes.z))
                   .c_str());
  std::abort();
}

// Greatest slope of the activation; 0 for those that copy or compare only.
double slope(const Activation& act) {
  if (act.kind == ActivationKind::kNone || act.kind == ActivationKind::kRelu || act.kind == ActivationKind::kClip)
    return 0;
  return 1.5;  // HardSwish; Gelu has 1.13, and the parameters drawn here are smaller
}

// What Winograd's transforms may enlarge errors by: 6 on an axis in small tiles, 19 in large ones
// (tests/cpu/forced.py).
double growth(const Plan& plan) {
  double all = 1;
  for (Transform t : plan.transform) all *= t == Transform::kNone ? 1 : t == Transform::kSmall ? 6 : 19;
  return all;
}

// The bounds of tests/cpu/forced.py: sums in any order (Higham, section 3.1), grown by Winograd's transforms, and its
// weights in 16 bits off by their roundoff; the activation; the storage.
std::vector<double> bounds(const Case& c, const Problem& p, const Plan& plan, const std::vector<double>& x,
                           const std::vector<double>& w, bool kept, const std::vector<double>& b,
                           const std::vector<double>& z, const std::vector<double>& expected) {
  Problem plain = p;
  plain.activation = {};
  const auto ax = magnitudes(x), aw = magnitudes(w), ab = magnitudes(b), az = magnitudes(z);
  std::vector<double> size = reference(plain, ax.data(), aw.data(), pointer(ab, c.shapes.b), pointer(az, c.shapes.z));
  std::vector<double> of_weights(size.size());  // errors
  const int64_t taps = volume(p.kernel), in = volume(p.in), out = element_count(p.out, "out");
  double roundings = static_cast<double>(p.group_in() * taps + 2);
  if (kept && c.weights == WeightStorage::kInt8) ++roundings;  // of the sum, to its scale
  if (plan.algorithm == Algorithm::kWinograd) {
    roundings += 11 * p.rank();
    const double grown = growth(plan);
    for (int64_t n = 0; n < p.batch; ++n)
      for (int64_t ch = 0; ch < p.channels; ++ch) {
        const auto image = ax.begin() + (n * p.channels + ch) * in;
        const double most = *std::max_element(image, image + in);
        for (int64_t m = 0; m < p.group_out(); ++m) {
          const auto tap = aw.begin() + (ch * p.group_out() + m) * taps;
          double sum = 0;
          for (int64_t t = 0; t < taps; ++t) sum += tap[t];
          const int64_t channel = ch / p.group_in() * p.group_out() + m;
          double off = 0;
          if (kept) {
            const DType storage = of_16_bits(c.weights);
            off = std::ldexp(sum, -format(storage).fraction - 1) + static_cast<double>(taps) * half_subnormal(storage);
          }
          for (int64_t o = 0; o < out; ++o) {
            const int64_t at = (n * p.out_channels + channel) * out + o;
            size[at] += grown * most * sum;
            of_weights[at] += grown * most * off;
          }
        }
      }
  }
  const double u = is_double(c.dtype) ? 0x1p-53 : 0x1p-24;
  const double storage = c.dtype == DType::kFloat16 ? 0x1p-11 : c.dtype == DType::kBFloat16 ? 0x1p-8 : u;
  const double gamma = roundings * u / (1 - roundings * u), steep = slope(p.activation);
  // Each product, and each value that passes the transforms, may round below the smallest normal number.
  const double underflow =
      roundings * growth(plan) * 2 * half_subnormal(is_double(c.dtype) ? c.dtype : DType::kFloat32);
  for (size_t i = 0; i < size.size(); ++i) {
    double error = gamma * size[i] + underflow + of_weights[i];
    if (steep > 0) error = steep * (error + 16 * u * (size[i] + 1));
    const double y = std::isfinite(expected[i]) ? std::fabs(expected[i]) : 0;
    size[i] = error + storage * (y + error) + half_subnormal(c.dtype);
    if (is_double(c.dtype)) size[i] *= 2;  // the reference rounds, too
  }
  return size;
}

void run(Reader& r) {
  const Case c = draw(r);
  Problem p = make_problem(c.attributes, c.shapes);
  p.constant_weights = c.constant_weights;
  if (element_count(p.y_shape(), "y") > 4 * kMostOutputs) throw Error("too large");
  const Prepared prepared(p, c.dtype, kernel_set(c.isa), c.machine, c.algorithm);

  Random random(c.seed + 1000 * static_cast<uint64_t>(c.values));
  const auto x = draw_values(c, c.shapes.x, 'x', random), w = draw_weights(c, p, random);
  const auto b = draw_values(c, c.shapes.b, 'b', random), z = draw_values(c, c.shapes.z, 'z', random);
  const auto xs = stored(c.dtype, x), ws = stored(c.dtype, w), bs = stored(c.dtype, b), zs = stored(c.dtype, z);
  const bool kept = keeps(c, prepared.plan(), w) && !w.empty();
  std::shared_ptr<const PackedWeights> packed;
  try {
    if (c.constant_weights) packed = prepared.pack(ws.data());
  } catch (const Error& error) {
    if (!(kept && c.beyond)) report(c, prepared, error.what());
    throw;
  }
  // Of float16 those that meet no output are not looked at; any other would be infinite below.
  if (kept && c.beyond && c.weights == WeightStorage::kInt8) report(c, prepared, "weights out of reach are accepted");
  const auto multiplied = kept_weights(c, p, prepared, w);
  const auto expected = reference(p, x.data(), multiplied.data(), pointer(b, c.shapes.b), pointer(z, c.shapes.z));
  const size_t element = storage_bytes(c.dtype);
  std::vector<char> y(expected.size() * element, '\xFF'), again(y);
  Serial executor;
  // Where no run reads W, a session may have given it up: these are NaN.
  const bool given_up = packed && !prepared.reads_original(*packed);
  const std::vector<char> none(given_up ? ws.size() : 0, '\xFF');
  const auto call = [&](std::vector<char>& result) {
    const Tensors tensors{xs.data(), given_up ? none.data() : ws.data(), c.shapes.b ? bs.data() : nullptr,
                          c.shapes.z ? zs.data() : nullptr, result.data()};
    if (packed) prepared.run(*packed, tensors, executor);
    else prepared.run(tensors, executor);
  };
  call(y);
  call(again);
  if (y != again) report(c, prepared, "two runs differ");

  const auto bound = bounds(c, p, prepared.plan(), x, multiplied, kept, b, z, expected);
  for (size_t i = 0; i < expected.size(); ++i) {
    const double actual = fetch(c.dtype, y.data() + i * element), wanted = expected[i];
    const bool may_overflow = std::fabs(wanted) + bound[i] > greatest(c.dtype);
    const bool good = std::isnan(wanted)                   ? std::isnan(actual)
                      : std::isinf(wanted)                 ? actual == wanted
                      : may_overflow && std::isinf(actual) ? std::signbit(actual) == std::signbit(wanted)
                                                           : std::fabs(actual - wanted) <= bound[i];
    if (!good) report(c, prepared, concat("output ", i, " is ", actual, " instead of ", wanted, ", bound ", bound[i]));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) { return one_input(data, size, counts, run); }
