// Each allocation of the engine fails once: those of the plan, of packing and of the weight cache, of the
// scratch memory, and of the sums by the definition (weights with NaN).  Each time std::bad_alloc has to
// come out, nothing else and no leak, and the next attempt has to give the right bits.
#include <cstdio>
#include <cstring>

#include "core/status.h"
#include "cpu/arch.h"
#include "cpu/run.h"
#include "cpu/weight_cache.h"
#include "fuzz/allocation.h"
#include "fuzz/values.h"

using namespace ort_tconv;

namespace {

constexpr int kStages = 3;
const char* const kStageNames[kStages] = {"plan", "packing", "run"};
int64_t failures[kStages] = {};

// Two workers, one after the other; scratch memory is an allocation like the others.
class Serial final : public Executor {
 public:
  void parallel(int64_t n, const std::function<void(int64_t)>& fn) override {
    for (int64_t i = 0; i < n; ++i) fn(i);
  }
  void* allocate(size_t bytes) override { return ::operator new(bytes); }
  void release(void* p) override { ::operator delete(p); }
};

struct Layer {
  DType dtype;
  std::string isa, algorithm;
  Attributes attributes;
  InputShapes shapes;
  std::vector<char> x, w, b;
  int64_t y_bytes;
  Machine machine;
};

std::vector<char> tensor(DType dtype, const Dims& shape, uint64_t seed, bool nan = false) {
  fuzz::Random random(seed);
  std::vector<double> v(static_cast<size_t>(element_count(shape, "tensor")));
  for (auto& e : v) e = fuzz::rounded(dtype, random.uniform());
  if (nan) v[v.size() / 2] = NAN;
  return fuzz::stored(dtype, v);
}

// All that a session does for a node; sets `stage` as it goes.
void attempt(const Layer& layer, std::vector<char>& y, int& stage) {
  stage = 0;
  const Prepared prepared(make_problem(layer.attributes, layer.shapes), layer.dtype, kernel_set(layer.isa),
                          layer.machine, layer.algorithm);
  stage = 1;
  const auto packed = shared_weights(prepared, layer.w.data(), layer.w.size());
  stage = 2;
  Serial executor;
  prepared.run(*packed, {layer.x.data(), layer.w.data(), layer.b.data(), nullptr, y.data()}, executor);
}

bool check(const Layer& layer) {
  std::vector<char> expected(static_cast<size_t>(layer.y_bytes)), y(expected);
  int stage = 0;
  attempt(layer, expected, stage);
  for (int64_t n = 0;; ++n) {
    bool thrown = false;
    std::fill(y.begin(), y.end(), '\xFF');
    fuzz::fail_allocation(n);
    try {
      attempt(layer, y, stage);
    } catch (const std::bad_alloc&) {
      thrown = true;
    }
    const bool failed = fuzz::allocation_failed();
    // What can do with less memory (std::stable_sort) may go on.
    if (!thrown && y != expected) return false;
    if (!failed) break;
    failures[stage] += thrown;
    if (weight_cache_use().entries != 0) return false;
  }
  return true;
}

}  // namespace

int main() {
  int failed = 0, passed = 0;
  std::vector<std::string> isas = supported_isas();
  for (const auto& isa : emulated_isas()) isas.push_back(isa);
  for (const auto& isa : isas)
    for (DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16})
      for (Algorithm algorithm : kAlgorithms)
        for (bool nan : {false, true}) {
          Layer layer{dtype, isa, name(algorithm), {}, {{1, 6, 7, 9}, {6, 5, 4, 4}, Dims{5}, {}}, {}, {}, {}, 0, {}};
          layer.attributes.strides = {2, 2};
          layer.attributes.pads = {1, 1, 1, 1};
          layer.x = tensor(dtype, layer.shapes.x, 1);
          layer.w = tensor(dtype, layer.shapes.w, 2, nan);
          layer.b = tensor(dtype, *layer.shapes.b, 3);
          layer.y_bytes = element_count(make_problem(layer.attributes, layer.shapes).y_shape(), "y") *
                          static_cast<int64_t>(storage_bytes(dtype));
          layer.machine = machine(kernel_set(isa), 2);
          const bool good = check(layer);
          ++(good ? passed : failed);
          if (!good)
            std::printf("%s %s %s: wrong after a failed allocation\n", isa.c_str(), name(dtype), name(algorithm));
        }
  for (int i = 0; i < kStages; ++i) {
    std::printf("%s: %lld allocations failed\n", kStageNames[i], static_cast<long long>(failures[i]));
    failed += failures[i] == 0;
  }
  std::printf("engine_faults: %d passed, %d failed\n", passed, failed);
  return failed != 0;
}
