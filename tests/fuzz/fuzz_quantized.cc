// Fuzz target: attributes x shapes x 8-bit types x algorithms x instruction sets x machines, each run of the quantised
// engine against the definition, of which it has to give every bit.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "core/quantized.h"
#include "core/status.h"
#include "cpu/quantized.h"
#include "fuzz/problems.h"

using namespace ort_tconv;
using namespace ort_tconv::fuzz;

namespace {

Counts counts("fuzz_quantized");

struct Case {
  Attributes attributes;
  InputShapes shapes;
  QuantizedTypes types;
  Quantization quantization;
  bool extreme;  // inputs and weights are the smallest and the largest values
  std::string isa, algorithm;
  Machine machine;
  uint64_t seed;
};

const std::vector<std::string>& isas() {
  static const std::vector<std::string> all = [] {
    std::vector<std::string> names = supported_quantized_isas();
    for (const auto& name : emulated_quantized_isas()) names.push_back(name);
    return names;
  }();
  return all;
}

int32_t draw_zero(Reader& r, QuantizedType type) {
  return type == QuantizedType::kFloat32 ? 0 : r.byte() - (type == QuantizedType::kInt8 ? 128 : 0);
}

// Powers of two among them, of which quotients are exact, so that halves are rounded to even.
float draw_scale(Random& random) {
  const double u = random.next() % 2 ? 1 : 1.5 + random.uniform() / 2;
  return static_cast<float>(std::ldexp(u, -static_cast<int>(random.next() % 12)));
}

Case draw(Reader& r) {
  Case c;
  const int kind = r.byte();  // choices first: they matter more than sizes
  c.types.x = kind & 1 ? QuantizedType::kInt8 : QuantizedType::kUint8;
  c.types.w = kind & 2 ? QuantizedType::kUint8 : QuantizedType::kInt8;
  c.types.y = static_cast<QuantizedType>(kind / 4 % 3);
  static const char* const algorithms[] = {"auto", "direct", "stacked", "narrow", "winograd"};
  c.algorithm = algorithms[kind / 12 % 5];
  c.extreme = kind / 60 % 4 == 3;
  c.isa = isas()[r.byte() % isas().size()];
  c.seed = r.byte();
  c.machine = machine(quantized_kernels(c.isa), 1 + r.pick(6));
  c.machine.l2_bytes = int64_t{1} << (12 + r.pick(10));
  c.machine.l3_bytes = int64_t{1} << (12 + r.pick(14));
  c.machine.l3_sharers = 1;
  draw_shapes(r, c.attributes, c.shapes);

  Attributes& a = c.attributes;
  const int64_t group_out = c.shapes.w[1], out_channels = a.group * group_out;
  const int given = r.byte();
  if (given & 1) a.activation = given & 2 ? "Relu" : "Clip";
  if (a.activation == "Clip") a.activation_params = {-0.75f, 1.5f};
  Random random(c.seed);
  Quantization& q = c.quantization;
  q.x_scale = draw_scale(random);
  q.x_zero = draw_zero(r, c.types.x);
  if (c.types.y != QuantizedType::kFloat32) q.y_scale = draw_scale(random);
  q.y_zero = draw_zero(r, c.types.y);
  const int64_t scales = given & 4 ? 1 : given & 8 ? group_out : out_channels;
  for (int64_t i = 0; i < scales; ++i) {
    const float scale = draw_scale(random);
    q.w_scale.push_back(random.next() % 16 ? scale : -scale);
  }
  const int32_t zero = draw_zero(r, c.types.w);
  const int64_t zeros = given & 16 ? scales : 1, least = c.types.w == QuantizedType::kInt8 ? -128 : 0;
  for (int64_t i = 0; i < zeros; ++i)
    q.w_zero.push_back(zeros == 1 ? zero : static_cast<int32_t>(least + static_cast<int64_t>(random.next() % 256)));
  if (given & 32) {
    c.shapes.b = Dims{out_channels};
    for (int64_t m = 0; m < out_channels; ++m) {
      if (given & 64) q.float_bias.push_back(static_cast<float>(100 * random.uniform()));
      else q.bias.push_back(static_cast<int32_t>(static_cast<int64_t>(random.next()) >> (given & 128 ? 32 : 48)));
    }
  }
  return c;
}

std::vector<uint8_t> draw_values(const Case& c, const Dims& shape, Random& random) {
  std::vector<uint8_t> v(static_cast<size_t>(element_count(shape, "input")));
  static const uint8_t ends[] = {0, 255, 127, 128};
  for (auto& e : v) e = c.extreme ? ends[random.next() % 4] : static_cast<uint8_t>(random.next());
  return v;
}

[[noreturn]] void report(const Case& c, const QuantizedPrepared& prepared, const std::string& what) {
  const Quantization& q = c.quantization;
  std::fprintf(
      stderr, "MISMATCH %s\n",
      concat(what, "\n  ", c.isa, " x ", name(c.types.x), " w ", name(c.types.w), " y ", name(c.types.y), " threads ",
             c.machine.threads, " l2 ", c.machine.l2_bytes, " l3 ", c.machine.l3_bytes, " seed ", c.seed, "\n  ",
             prepared.plan().describe(), "\n  ", geometry(c.attributes, c.shapes), "\n  zeros ", q.x_zero, " ",
             q.y_zero, " scales ", q.x_scale, " ", q.y_scale, ", ", q.w_scale.size(), " of weights, ", q.w_zero.size(),
             " zeros, ", q.bias.size(), " and ", q.float_bias.size(), " biases")
          .c_str());
  std::abort();
}

void run(Reader& r) {
  const Case c = draw(r);
  const Problem p = make_problem(c.attributes, c.shapes);
  const int64_t outputs = element_count(p.y_shape(), "y");
  if (outputs > 4 * kMostOutputs) throw Error("too large");
  const QuantizedPrepared prepared(p, c.types, quantized_kernels(c.isa), c.machine, c.algorithm);
  const Requantization requantized = requantization(p, c.types, c.quantization);
  Random random(c.seed + 1000);
  const auto x = draw_values(c, c.shapes.x, random), w = draw_values(c, c.shapes.w, random);
  std::vector<uint8_t> expected(static_cast<size_t>(outputs * storage_bytes(c.types.y)), 0xFF), y = expected;
  std::vector<uint8_t> again = y;
  quantized_reference(p, c.types, requantized, x.data(), w.data(), expected.data());
  Serial executor;
  const auto packed = prepared.pack(w.data());
  for (auto* result : {&y, &again})
    prepared.run(*packed, requantized, {x.data(), w.data(), nullptr, nullptr, result->data()}, executor);
  if (y != again) report(c, prepared, "two runs differ");
  if (y != expected) {
    const size_t size = static_cast<size_t>(storage_bytes(c.types.y));
    const size_t at = static_cast<size_t>(std::mismatch(y.begin(), y.end(), expected.begin()).first - y.begin()) / size;
    const auto value = [&](const std::vector<uint8_t>& from) {
      if (c.types.y == QuantizedType::kUint8) return static_cast<double>(from[at]);
      if (c.types.y == QuantizedType::kInt8) return static_cast<double>(static_cast<int8_t>(from[at]));
      return fetch(DType::kFloat32, reinterpret_cast<const char*>(from.data()) + at * size);
    };
    report(c, prepared, concat("output ", at, " of ", outputs, " is ", value(y), " instead of ", value(expected)));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) { return one_input(data, size, counts, run); }
