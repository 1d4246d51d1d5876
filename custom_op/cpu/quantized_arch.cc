#include <algorithm>
#include <cstdlib>

#include "core/status.h"
#include "cpu/arch.h"
#include "cpu/quantized.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace ort_tconv {

extern const QuantizedKernels quantized_kernels_baseline, quantized_kernels_emulated_neondot;
#if defined(__x86_64__)
extern const QuantizedKernels quantized_kernels_avx2, quantized_kernels_avxvnni, quantized_kernels_avx512vnni;
extern const QuantizedKernels quantized_kernels_emulated_avxvnni, quantized_kernels_emulated_avx512vnni;
#elif defined(__aarch64__)
extern const QuantizedKernels quantized_kernels_neon, quantized_kernels_neondot;
#endif

namespace {

struct Entry {
  const QuantizedKernels* kernels;
  bool (*available)();  // beyond what the KernelSet needs that these are based on
  bool emulated = false;
};

#if defined(__x86_64__)
bool has_avxvnni() {  // compilers of 2022 do not know its name
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
bool has_avx512vnni() { return __builtin_cpu_supports("avx512vnni"); }
#elif defined(__aarch64__)
bool has_dot_product() {
#if defined(__linux__)
  constexpr unsigned long kDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
  return getauxval(AT_HWCAP) & kDotProduct;
#else
  return false;
#endif
}
#endif
bool always() { return true; }

const std::vector<Entry>& entries() {
  static const std::vector<Entry> all = {
#if defined(__x86_64__)
      {&quantized_kernels_avx512vnni, has_avx512vnni},
      {&quantized_kernels_avxvnni, has_avxvnni},
      {&quantized_kernels_avx2, always},
      {&quantized_kernels_emulated_avx512vnni, always, true},
      {&quantized_kernels_emulated_avxvnni, always, true},
#elif defined(__aarch64__)
      {&quantized_kernels_neondot, has_dot_product},
      {&quantized_kernels_neon, always},
#endif
      {&quantized_kernels_baseline, always},
      {&quantized_kernels_emulated_neondot, always, true},
  };
  return all;
}

bool runs(const Entry& e) {
  const auto sets = supported_isas();
  return std::find(sets.begin(), sets.end(), e.kernels->base) != sets.end() && e.available();
}

template <class Keep>
std::vector<std::string> names(Keep keep) {
  std::vector<std::string> result;
  for (const auto& e : entries())
    if (keep(e)) result.push_back(e.kernels->name);
  return result;
}

const Entry& entry(const std::string& isa) {
  for (const auto& e : entries())
    if (isa == e.kernels->name) return e;
  fail("instruction set '", isa, "' of quantised kernels: must be one of ", join(compiled_quantized_isas()));
}

}  // namespace

std::vector<std::string> compiled_quantized_isas() {
  return names([](const Entry& e) { return !e.emulated; });
}

std::vector<std::string> supported_quantized_isas() {
  return names([](const Entry& e) { return !e.emulated && runs(e); });
}

std::vector<std::string> emulated_quantized_isas() {
  return names([](const Entry& e) { return e.emulated && runs(e); });
}

const QuantizedKernels& quantized_kernels(const std::string& isa) {
  if (!isa.empty()) {
    const Entry& e = entry(isa);
    require(runs(e), "instruction set '", isa, "' of quantised kernels: this processor has only ",
            join(supported_quantized_isas()));
    return *e.kernels;
  }
  // A lower instruction set that the environment asks for counts here, too: sets are listed from the best on.
  const auto sets = compiled_isas();
  const auto rank = [&](const char* name) { return std::find(sets.begin(), sets.end(), name) - sets.begin(); };
  const auto in_use = rank(kernel_set().name);
  for (const auto& e : entries())
    if (!e.emulated && runs(e) && rank(e.kernels->base) >= in_use % static_cast<int64_t>(sets.size()))
      return *e.kernels;
  fail("no quantised kernels for this processor");
}

const QuantizedKernels& compiled_quantized_kernels(const std::string& isa) {
  // A set of the same name comes first: not each processor with the instructions has those for 8 bits, too.
  const auto sets = compiled_quantized_isas();
  if (std::find(sets.begin(), sets.end(), isa) == sets.end())
    for (const auto& e : entries())
      if (!e.emulated && isa == e.kernels->base) return *e.kernels;
  return *entry(isa).kernels;
}

Machine machine(const QuantizedKernels& kernels, int threads) {
  Machine m = machine(compiled_kernel_set(kernels.base), threads);
  m.isa = kernels.name;
  m.vector_bytes = kernels.lanes * 4;
  m.max_vectors = kernels.max_vectors;
  m.max_rows = kQuantizedMaxRows;
  return m;
}

}  // namespace ort_tconv
