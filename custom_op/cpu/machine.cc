#include "cpu/machine.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <optional>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "core/integers.h"
#include "core/status.h"

namespace ort_tconv {
namespace {

constexpr int64_t kKiB = 1024, kMiB = 1024 * kKiB;

// Where nothing is known of a cache: as small as those of processors still in use.
constexpr int64_t kUnknownL2 = 256 * kKiB, kUnknownL3 = 1 * kMiB;
// No core has more L2 than the first, and none gains from more than the second.
constexpr int64_t kAbsurdL2 = 4 * kMiB, kMostL2 = 2 * kMiB, kLeastL2 = 128 * kKiB;
// A guest is often told of a cache as if it had it for itself.  On processors of servers 1 to 2 MiB of the last
// level fall to a logical processor; the most that any has is 12 MiB.
constexpr int64_t kMostL3 = 12 * kMiB, kMostVirtualL3 = 2 * kMiB;

struct Cache {
  int64_t bytes = 0, sharers = 0;  // 0: unknown
};

// The whole of the text as a number, with a unit K, M or G; 0 if it is none.
int64_t parse_bytes(const std::string& text) {
  char* end = nullptr;
  const long long n = std::strtoll(text.c_str(), &end, 10);
  if (end == text.c_str() || n <= 0 || n > (1LL << 40)) return 0;
  switch (*end) {
    case 'K': return n * kKiB;
    case 'M': return n * kMiB;
    case 'G': return n * kMiB * kKiB;
    case '\0':
    case '\n': return n;
    default: return 0;
  }
}

// Processors in a list such as 0-3,8; 0 if it is none.
int64_t count_listed(const std::string& text) {
  int64_t count = 0;
  for (const char* p = text.c_str(); *p != '\0' && *p != '\n';) {
    char* end = nullptr;
    const long long first = std::strtoll(p, &end, 10);
    if (end == p || first < 0) return 0;
    long long last = first;
    if (*end == '-') {
      p = end + 1;
      last = std::strtoll(p, &end, 10);
      if (end == p || last < first || last - first > (1 << 20)) return 0;
    }
    count += last - first + 1;
    p = *end == ',' ? end + 1 : end;
    if (p == end && *p != '\0' && *p != '\n') return 0;
  }
  return count;
}

bool holds_data(const std::string& type) { return type.rfind("Data", 0) == 0 || type.rfind("Unified", 0) == 0; }

Cache of_cpuid(const Answers& answers, int level) {
  for (const auto& [a, b, c, d] : answers.cpuid_caches) {
    const int type = a & 31;
    if ((type != 1 && type != 3) || static_cast<int>(a >> 5 & 7) != level) continue;
    return {static_cast<int64_t>((b & 0xfff) + 1) * ((b >> 12 & 0x3ff) + 1) * ((b >> 22) + 1) * (int64_t{c} + 1),
            static_cast<int64_t>((a >> 14 & 0xfff) + 1)};
  }
  return {};
}

Cache of_files(const std::vector<CacheFiles>& files, int level) {
  for (const CacheFiles& f : files)
    if (holds_data(f.type) && std::atoi(f.level.c_str()) == level)
      return {parse_bytes(f.size), count_listed(f.shared_cpu_list)};
  return {};
}

// Of two answers the one that promises less.
Cache least(const Cache& a, const Cache& b) {
  return {a.bytes > 0 && b.bytes > 0 ? std::min(a.bytes, b.bytes) : std::max(a.bytes, b.bytes),
          std::max(a.sharers, b.sharers)};
}

// Whole processors in a cgroup's limit, the last one perhaps for a part of the time; 0: no limit.
int64_t limit_of(const std::string& quota, const std::string& period) {
  const long long q = std::atoll(quota.c_str()), p = std::atoll(period.c_str());
  return q > 0 && p > 0 ? ceil_div(q, p) : 0;
}

int threads(const Answers& answers) {
  int64_t n = std::max(1, answers.processors);
  const auto limit = [&](int64_t most) { n = most > 0 ? std::min(n, most) : n; };
  for (const std::string& text : answers.cpu_max) {
    const size_t space = text.find(' ');  // "max 100000" has no quota
    if (space != std::string::npos) limit(limit_of(text.substr(0, space), text.substr(space + 1)));
  }
  for (const auto& [quota, period] : answers.cfs) limit(limit_of(quota, period));
  if (!answers.most_threads.empty()) {
    char* end = nullptr;
    const long long most = std::strtoll(answers.most_threads.c_str(), &end, 10);
    require(*end == 0 && most > 0, "environment variable ORT_TCONV_THREADS = '", answers.most_threads,
            "': must be a positive number, of the threads that a session has at most");
    limit(most);
  }
  return static_cast<int>(n);
}

// ---- asking -------------------------------------------------------------------------------------------

std::optional<std::string> read(const std::string& path) {
  std::FILE* f = std::fopen(path.c_str(), "r");
  if (!f) return std::nullopt;
  char text[4096];
  const size_t n = std::fread(text, 1, sizeof(text), f);
  std::fclose(f);
  return std::string(text, n);
}

#if defined(__x86_64__)
void ask_processor(Answers& answers) {
  unsigned a, b, c, d;
  if (__get_cpuid(1, &a, &b, &c, &d)) answers.bare = !(c >> 31 & 1);
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) answers.hybrid = d >> 15 & 1;
  for (unsigned leaf : {4u, 0x8000001Du}) {
    for (unsigned i = 0; i < 16; ++i) {
      if (!__get_cpuid_count(leaf, i, &a, &b, &c, &d) || (a & 31) == 0) break;
      answers.cpuid_caches.push_back({a, b, c, d});
    }
    if (!answers.cpuid_caches.empty()) return;
  }
}
#else
void ask_processor(Answers&) {}
#endif

std::vector<std::vector<CacheFiles>> cache_files(const std::vector<int>& processors) {
  std::vector<std::vector<CacheFiles>> all;
  for (int cpu : processors) {
    std::vector<CacheFiles> caches;
    for (int i = 0; i < 16; ++i) {
      const std::string path =
          "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/cache/index" + std::to_string(i) + "/";
      const auto level = read(path + "level");
      if (!level) break;
      caches.push_back({*level, read(path + "type").value_or(""), read(path + "size").value_or(""),
                        read(path + "shared_cpu_list").value_or("")});
    }
    if (!caches.empty()) all.push_back(std::move(caches));
  }
  return all;
}

// A group's own directory and those above it, as seen from a mount point.  A container's mount may begin below
// the path's root: then only the mount point itself is there.
std::vector<std::string> directories(const std::string& mount, std::string group) {
  std::vector<std::string> all;
  while (group.size() > 1) {
    all.push_back(mount + group);
    group.resize(group.rfind('/'));
  }
  all.push_back(mount);
  return all;
}

void ask_limits(Answers& answers) {
  const std::string groups = read("/proc/self/cgroup").value_or("");
  for (size_t begin = 0; begin < groups.size();) {
    const size_t end = std::min(groups.find('\n', begin), groups.size());
    const std::string line = groups.substr(begin, end - begin);  // number:controllers:path
    begin = end + 1;
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), group = line.substr(second + 1);
    if (controllers.empty()) {
      for (const char* mount : {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"})
        for (const std::string& directory : directories(mount, group))
          if (const auto text = read(directory + "/cpu.max")) answers.cpu_max.push_back(*text);
    } else if (("," + controllers + ",").find(",cpu,") != std::string::npos) {
      for (const std::string& directory : directories("/sys/fs/cgroup/" + controllers, group)) {
        const auto quota = read(directory + "/cpu.cfs_quota_us"), period = read(directory + "/cpu.cfs_period_us");
        if (quota && period) answers.cfs.push_back({*quota, *period});
      }
    }
  }
}

std::vector<int> usable_processors() {
  // As many as the kernel may have, where that is more than the set of a fixed size holds.
  for (size_t most = CPU_SETSIZE; most <= 1 << 20; most *= 2) {
    std::vector<cpu_set_t> set(most / CPU_SETSIZE);
    const size_t bytes = set.size() * sizeof(cpu_set_t);
    if (sched_getaffinity(0, bytes, set.data()) != 0) continue;
    std::vector<int> usable;
    for (size_t i = 0; i < most; ++i)
      if (CPU_ISSET_S(i, bytes, set.data())) usable.push_back(static_cast<int>(i));
    return usable;
  }
  return {};
}

}  // namespace

Resources conclude(const Answers& answers) {
  Resources r;
  r.threads = threads(answers);
  r.l2_bytes = kMostL2;
  r.l3_bytes = kMostL3;
  bool known = false;
  // Threads may run on any core: the least of all kinds.
  const std::vector<std::vector<CacheFiles>> nothing(1);
  for (const auto& files : answers.sysfs.empty() ? nothing : answers.sysfs) {
    Cache caches[4];
    for (int level = 1; level <= 3; ++level)
      caches[level] = least(of_files(files, level), answers.hybrid ? Cache{} : of_cpuid(answers, level));
    known = known || caches[1].bytes > 0 || caches[2].bytes > 0;

    // Logical processors that share the first level are one core: they share its second level as well.
    const int64_t cores = ceil_div(std::max<int64_t>(1, caches[2].sharers), std::max<int64_t>(1, caches[1].sharers));
    const int64_t l2 = caches[2].bytes / cores;
    r.l2_bytes = std::min(r.l2_bytes, l2 <= 0 || l2 >= kAbsurdL2 ? kUnknownL2 : std::max(l2, kLeastL2));

    const int64_t sharers = caches[3].sharers;
    const int64_t most = answers.bare && sharers > 0 ? kMostL3 : kMostVirtualL3;
    r.l3_bytes = std::min({r.l3_bytes, most, caches[3].bytes / std::max<int64_t>(1, sharers)});
    r.l3_sharers = std::max(r.l3_sharers, sharers);
  }
  if (!known) r.l3_bytes = kUnknownL3;
  return r;
}

Answers ask() {
  const std::vector<int> processors = usable_processors();
  static const Answers caches = [&] {
    Answers a;
    ask_processor(a);
    a.sysfs = cache_files(processors);
    return a;
  }();
  Answers answers = caches;
  answers.processors = !processors.empty() ? static_cast<int>(processors.size())
                                           : static_cast<int>(std::max<long>(1, sysconf(_SC_NPROCESSORS_ONLN)));
  ask_limits(answers);
  const char* const most_threads = std::getenv("ORT_TCONV_THREADS");
  answers.most_threads = most_threads ? most_threads : "";
  return answers;
}

}  // namespace ort_tconv
