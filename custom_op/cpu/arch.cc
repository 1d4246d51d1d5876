#include "cpu/arch.h"

#include <cstdlib>

#include "core/status.h"
#include "cpu/machine.h"

namespace ort_tconv {

extern const KernelSet kernel_set_baseline;
#if defined(__x86_64__)
extern const KernelSet kernel_set_avx2, kernel_set_avx512, kernel_set_emulated512;
#elif defined(__aarch64__)
extern const KernelSet kernel_set_neon;
#endif

namespace {

struct Entry {
  const KernelSet* set;
  bool (*available)();
  bool emulated = false;  // only by name, for tests
};

const std::vector<Entry>& entries() {
  static const std::vector<Entry> all = {
#if defined(__x86_64__)
      {&kernel_set_avx512,
       [] {
         return bool(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                     __builtin_cpu_supports("fma"));
       }},
      {&kernel_set_avx2, [] { return bool(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")); }},
      {&kernel_set_emulated512, [] { return bool(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")); },
       true},
#elif defined(__aarch64__)
      {&kernel_set_neon, [] { return true; }},
#endif
      {&kernel_set_baseline, [] { return true; }},
  };
  return all;
}

template <class Keep>
std::vector<std::string> names(Keep keep) {
  std::vector<std::string> result;
  for (const auto& e : entries())
    if (keep(e)) result.push_back(e.set->name);
  return result;
}

const Entry& entry(const std::string& isa, const char* origin = "") {
  for (const auto& e : entries())
    if (isa == e.set->name) return e;
  fail("instruction set '", isa, "'", origin, ": must be one of ", join(compiled_isas()));
}

}  // namespace

std::vector<std::string> compiled_isas() {
  return names([](const Entry& e) { return !e.emulated; });
}

std::vector<std::string> supported_isas() {
  return names([](const Entry& e) { return !e.emulated && e.available(); });
}

std::vector<std::string> emulated_isas() {
  return names([](const Entry& e) { return e.emulated && e.available(); });
}

const KernelSet& kernel_set(const std::string& isa) {
  const char* env = isa.empty() ? std::getenv("ORT_TCONV_ISA") : nullptr;
  const char* origin = env ? " (from ORT_TCONV_ISA)" : "";
  const std::string wanted = env ? env : isa;
  if (wanted.empty()) return *entry(supported_isas().front()).set;
  const Entry& e = entry(wanted, origin);
  require(e.available(), "instruction set '", wanted, "'", origin, ": this processor has only ",
          join(supported_isas()));
  return *e.set;
}

const KernelSet& compiled_kernel_set(const std::string& isa) { return *entry(isa).set; }

Machine machine(const KernelSet& set, const Resources& resources) {
  Machine m;
  m.isa = set.name;
  m.vector_bytes = set.f32.lanes * static_cast<int>(sizeof(float));
  m.max_vectors = set.f32.max_vectors;
  m.max_pixels = kMaxPixels;
  m.max_rows = set.f32.max_rows;
  m.threads = resources.threads;
  m.l2_bytes = resources.l2_bytes;
  m.l3_bytes = resources.l3_bytes;
  m.l3_sharers = resources.l3_sharers;
  return m;
}

Machine machine(const KernelSet& set, int threads) {
  Resources resources = conclude(ask());
  if (threads > 0) resources.threads = threads;
  return machine(set, resources);
}

}  // namespace ort_tconv
