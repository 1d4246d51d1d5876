#include "cpu/arch.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "core/status.h"

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

std::string join(const std::vector<std::string>& names) {
  std::string s;
  for (const auto& n : names) s += (s.empty() ? "" : ", ") + n;
  return s;
}

const Entry& entry(const std::string& isa, const char* origin = "") {
  for (const auto& e : entries())
    if (isa == e.set->name) return e;
  fail("instruction set '", isa, "'", origin, ": must be one of ", join(compiled_isas()));
}

int available_threads() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return static_cast<int>(std::max<long>(1, sysconf(_SC_NPROCESSORS_ONLN)));
}

int64_t l2_bytes() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  const long n = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (n > 0) return std::clamp<int64_t>(n, 256 * 1024, 2 * 1024 * 1024);
#endif
  return 512 * 1024;
}

// What one core can reach.  (sysconf adds up all the caches of a processor that has several.)
int64_t l3_bytes() {
  int64_t kib = 0;
  if (std::FILE* f = std::fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "r")) {
    long v = 0;
    if (std::fscanf(f, "%ldK", &v) == 1) kib = v;
    std::fclose(f);
  }
  return kib > 0 ? kib * 1024 : 8 * 1024 * 1024;
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

Machine machine(const KernelSet& set, int threads) {
  Machine m;
  m.isa = set.name;
  m.vector_bytes = set.f32.lanes * static_cast<int>(sizeof(float));
  m.max_vectors = set.f32.max_vectors;
  m.max_rows = set.f32.max_rows;
  m.threads = threads > 0 ? threads : available_threads();
  m.l2_bytes = l2_bytes();
  m.l3_bytes = l3_bytes();
  return m;
}

}  // namespace ort_tconv
