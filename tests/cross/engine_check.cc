// Every algorithm, element type and instruction set of this build against the float64 reference, as one
// program without Python: it runs where Python's packages do not, under an emulator or on another
// architecture.  Exit status 0 if all agree.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>

#include "core/plan.h"
#include "core/quantized.h"
#include "core/reference.h"
#include "core/status.h"
#include "cpu/arch.h"
#include "cpu/quantized.h"
#include "cpu/run.h"

using namespace ort_tconv;

namespace {

class Serial final : public Executor {
 public:
  void parallel(int64_t n, const std::function<void(int64_t)>& fn) override {
    for (int64_t i = 0; i < n; ++i) fn(i);
  }
  void* allocate(size_t bytes) override { return std::malloc(bytes); }
  void release(void* p) override { std::free(p); }
};

struct Case {
  Dims x, w;
  Attributes attributes;
};

Attributes attributes(Dims strides, Dims pads, Dims dilations = {}, int64_t group = 1, Dims output_padding = {}) {
  Attributes a;
  a.strides = strides, a.pads = pads, a.dilations = dilations, a.group = group, a.output_padding = output_padding;
  return a;
}

const Case kCases[] = {
    {{1, 19, 7, 6}, {19, 21, 4, 4}, attributes({2, 2}, {1, 1, 1, 1})},
    {{2, 8, 5, 9}, {8, 17, 3, 3}, attributes({2, 2}, {1, 0, 1, 2}, {}, 1, {1, 1})},
    {{1, 5, 6, 40}, {5, 2, 5, 5}, attributes({2, 2}, {2, 2, 2, 2})},
    {{1, 6, 9}, {6, 5, 16}, attributes({8}, {4, 4}, {}, 2)},
    {{1, 4, 4, 3, 5}, {4, 9, 4, 4, 4}, attributes({2, 2, 2}, {1, 1, 1, 1, 1, 1})},
    {{1, 12, 5, 5}, {12, 1, 4, 4}, attributes({2, 2}, {1, 1, 1, 1}, {}, 12)},
    {{1, 7, 4, 6}, {7, 33, 2, 2}, attributes({3, 3}, {0, 0, 0, 0})},
    {{1, 3, 5, 7}, {3, 6, 3, 3}, attributes({2, 2}, {2, 2, 2, 2}, {2, 2})},
};

// Values of a few bits, exact in every type, so that only the result is rounded.
std::vector<double> draw(int64_t n, std::mt19937& random) {
  std::vector<double> v(static_cast<size_t>(n));
  for (auto& e : v) e = static_cast<int>(random() % 31) / 8.0 - 1.875;
  return v;
}

uint32_t float_bits(double v) {
  const float f = static_cast<float>(v);
  uint32_t u;
  std::memcpy(&u, &f, 4);
  return u;
}

// `v` is exact in the type and normal or zero.
void store(DType dtype, double v, char* at) {
  const float f = static_cast<float>(v);
  const uint32_t u = float_bits(v);
  switch (dtype) {
    case DType::kFloat64: std::memcpy(at, &v, 8); return;
    case DType::kFloat32: std::memcpy(at, &f, 4); return;
    case DType::kBFloat16: {
      const uint16_t h = static_cast<uint16_t>(u >> 16);
      std::memcpy(at, &h, 2);
      return;
    }
    case DType::kFloat16: {
      const int exponent = static_cast<int>(u >> 23 & 255) - 127 + 15;
      const uint16_t h = v == 0 ? 0 : static_cast<uint16_t>((u >> 16 & 0x8000) | (exponent << 10) | (u >> 13 & 0x3FF));
      std::memcpy(at, &h, 2);
      return;
    }
  }
}

double fetch(DType dtype, const char* at) {
  uint16_t h;
  std::memcpy(&h, at, 2);
  switch (dtype) {
    case DType::kFloat64: {
      double v;
      std::memcpy(&v, at, 8);
      return v;
    }
    case DType::kFloat32: {
      float f;
      std::memcpy(&f, at, 4);
      return f;
    }
    case DType::kBFloat16: {
      const uint32_t u = static_cast<uint32_t>(h) << 16;
      float f;
      std::memcpy(&f, &u, 4);
      return f;
    }
    case DType::kFloat16: {
      const int exponent = h >> 10 & 31, mantissa = h & 1023;
      const double v = exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24);
      return h & 0x8000 ? -v : v;
    }
  }
  return 0;
}

std::vector<char> stored(DType dtype, const std::vector<double>& v) {
  std::vector<char> bytes(v.size() * storage_bytes(dtype));
  for (size_t i = 0; i < v.size(); ++i) store(dtype, v[i], bytes.data() + i * storage_bytes(dtype));
  return bytes;
}

// All sets of quantised kernels on one case, for equality with the definition; returns how many differ.
int check_quantized(const Case& c, const std::vector<std::string>& isas, std::mt19937& random, int& passed) {
  const Problem p = make_problem(c.attributes, {c.x, c.w, {}, {}});
  const auto bytes = [&](const Dims& shape) {
    std::vector<uint8_t> v(static_cast<size_t>(element_count(shape, "size")));
    for (auto& e : v) e = static_cast<uint8_t>(random());
    return v;
  };
  const auto x = bytes(c.x), w = bytes(c.w);
  int failed = 0;
  for (QuantizedType type : {QuantizedType::kUint8, QuantizedType::kInt8})
    for (bool zero : {false, true}) {
      const QuantizedTypes types{type, zero ? QuantizedType::kUint8 : QuantizedType::kInt8, type};
      Quantization q;
      q.x_scale = 0.02f, q.y_scale = 1.5f;
      q.x_zero = 3, q.y_zero = 7;
      q.w_scale.assign(static_cast<size_t>(p.out_channels), 0.01f);
      q.w_zero.assign(1, zero ? 130 : 0);
      q.bias.assign(static_cast<size_t>(p.out_channels), -1000);
      const Requantization r = requantization(p, types, q);
      const size_t size = static_cast<size_t>(element_count(p.y_shape(), "size"));
      std::vector<uint8_t> expected(size), y(size);
      quantized_reference(p, types, r, x.data(), w.data(), expected.data());
      for (const auto& isa : isas)
        for (const char* algorithm : {"direct", "stacked", "narrow", "winograd"}) {
          const QuantizedKernels& kernels = quantized_kernels(isa);
          const QuantizedPrepared prepared(p, types, kernels, machine(kernels, 2), algorithm);
          Serial executor;
          std::fill(y.begin(), y.end(), 0x7F);
          prepared.run(*prepared.pack(w.data()), r, {x.data(), w.data(), nullptr, nullptr, y.data()}, executor);
          const bool same = y == expected;
          (same ? passed : failed) += 1;
          if (!same)
            std::printf("%s %s: %s: not equal\n", isa.c_str(), concat(c.x, c.w).c_str(),
                        prepared.plan().describe().c_str());
        }
    }
  return failed;
}

}  // namespace

int main() {
  std::mt19937 random(1);
  int failed = 0, passed = 0;
  std::vector<std::string> isas = supported_isas();
  for (const auto& isa : emulated_isas()) isas.push_back(isa);
  std::vector<std::string> quantized_isas = supported_quantized_isas();
  for (const auto& isa : emulated_quantized_isas()) quantized_isas.push_back(isa);
  for (const Case& c : kCases) {
    failed += check_quantized(c, quantized_isas, random, passed);
    Problem p = make_problem(c.attributes, {c.x, c.w, {}, {}});
    p.has_bias = true;
    const auto x = draw(element_count(c.x, "x"), random), w = draw(element_count(c.w, "w"), random);
    const auto b = draw(p.out_channels, random);
    const auto expected = reference(p, x.data(), w.data(), b.data(), nullptr);
    double terms = static_cast<double>(p.group_in());
    for (int64_t k : p.kernel) terms *= static_cast<double>(k);
    for (const auto& isa : isas)
      for (DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16})
        for (Algorithm algorithm : kAlgorithms)
          for (int storage = 0; storage < (dtype == DType::kFloat32 ? kWeightStorages : 1); ++storage) {
            // Weights are multiples of 1/8 that every storage holds.
            p.weights = static_cast<WeightStorage>(storage);
            p.weight_scales.assign(p.weights == WeightStorage::kInt8 ? 1 : 0, 0.125f);
            const KernelSet& kernels = kernel_set(isa);
            const Prepared prepared(p, dtype, kernels, machine(kernels, 2), name(algorithm));
            const auto xs = stored(dtype, x), ws = stored(dtype, w), bs = stored(dtype, b);
            std::vector<char> y(expected.size() * storage_bytes(dtype), 0x7F);
            Serial executor;
            prepared.run(*prepared.pack(ws.data()), {xs.data(), ws.data(), bs.data(), nullptr, y.data()}, executor);
            // One rounding to storage, and the growth of sums of `terms` products of at most 1.875^2.
            const double rounding = dtype == DType::kFloat16 ? 0x1p-11 : dtype == DType::kBFloat16 ? 0x1p-8 : 0;
            const double sums = (dtype == DType::kFloat64 ? 0x1p-53 : 0x1p-24) * terms * terms * 4;
            double worst = 0;
            for (size_t i = 0; i < expected.size(); ++i) {
              const double error = std::fabs(fetch(dtype, y.data() + i * storage_bytes(dtype)) - expected[i]);
              const double allowed = rounding * std::fabs(expected[i]) + sums;
              worst = std::fmax(worst, std::isnan(error) ? INFINITY : error / allowed);
            }
            if (worst <= 1) {
              ++passed;
            } else {
              ++failed;
              std::printf("%s %s, weights %s, %s %s: error %g of what is allowed\n", isa.c_str(), name(dtype),
                          name(p.weights), concat(c.x, c.w).c_str(), prepared.plan().describe().c_str(), worst);
            }
          }
  }
  std::string names;
  for (const auto& isa : isas) names += " " + isa;
  for (const auto& isa : quantized_isas) names += " q8:" + isa;
  std::printf("engine_check:%s: %d passed, %d failed\n", names.c_str(), passed, failed);
  return failed != 0;
}
