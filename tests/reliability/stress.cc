// Threads without ONNX Runtime, for the thread sanitizer: several calls at once of one Prepared, each with
// several workers, and a weight cache that is filled and emptied from all sides.  Every result must have
// the bits of the first.
#include <cstdio>
#include <cstring>
#include <thread>

#include "core/status.h"
#include "cpu/arch.h"
#include "cpu/thread_executor.h"
#include "cpu/weight_cache.h"
#include "fuzz/values.h"

using namespace ort_tconv;

namespace {

constexpr int kCallers = 4, kRounds = 3;

std::vector<char> tensor(DType dtype, const Dims& shape, uint64_t seed) {
  fuzz::Random random(seed);
  std::vector<double> v(static_cast<size_t>(element_count(shape, "tensor")));
  for (auto& e : v) e = fuzz::rounded(dtype, random.uniform());
  return fuzz::stored(dtype, v);
}

// One layer, all callers at once; false if two results differ.
bool stress(const std::string& isa, DType dtype, const char* algorithm) {
  Attributes a;
  a.strides = {2, 2};
  a.pads = {1, 1, 1, 1};
  const InputShapes shapes{{2, 20, 13, 17}, {20, 24, 4, 4}, Dims{24}, {}};
  const Problem p = make_problem(a, shapes);
  const KernelSet& kernels = kernel_set(isa);
  const Prepared prepared(p, dtype, kernels, machine(kernels, 3), algorithm);
  const auto x = tensor(dtype, shapes.x, 1), w = tensor(dtype, shapes.w, 2), b = tensor(dtype, *shapes.b, 3);
  const size_t bytes = static_cast<size_t>(element_count(p.y_shape(), "y") * storage_bytes(dtype));
  std::vector<std::vector<char>> results(kCallers, std::vector<char>(bytes));
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller)
    callers.emplace_back([&, caller] {
      ThreadExecutor executor;
      for (int round = 0; round < kRounds; ++round) {
        const auto packed = shared_weights(prepared, w.data(), w.size());
        prepared.run(*packed, {x.data(), w.data(), b.data(), nullptr, results[caller].data()}, executor);
      }
    });
  for (auto& t : callers) t.join();
  for (const auto& r : results)
    if (r != results[0]) return false;
  return weight_cache_use().entries == 0;
}

}  // namespace

int main() {
  int failed = 0, passed = 0;
  std::vector<std::string> isas = supported_isas();
  for (const auto& isa : emulated_isas()) isas.push_back(isa);
  for (const auto& isa : isas)
    for (DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16})
      for (Algorithm algorithm : kAlgorithms) {
        const bool good = stress(isa, dtype, name(algorithm));
        ++(good ? passed : failed);
        if (!good) std::printf("%s %s %s: results differ\n", isa.c_str(), name(dtype), name(algorithm));
      }
  std::printf("stress: %d passed, %d failed\n", passed, failed);
  return failed != 0;
}
