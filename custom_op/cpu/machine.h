// What one core can use of this machine: its part of each cache, and how many cores there are to use.  Asking
// (the processor, the operating system) and concluding are apart, so that conclusions can be tested on
// machines one does not have.  Nothing is timed: a machine gives the same answers in every process.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace ort_tconv {

// A cache as Linux describes it to one processor: contents of cpuN/cache/indexM/{level,type,size,shared_cpu_list}.
struct CacheFiles { std::string level, type, size, shared_cpu_list; };

struct Answers {
  // Registers eax, ebx, ecx, edx of cpuid's list of caches (leaf 4 or 0x8000001D).  On a processor with cores
  // of several kinds they are those of the core that happened to be asked.
  std::vector<std::array<uint32_t, 4>> cpuid_caches;
  bool hybrid = false;                          // cores of several kinds
  bool bare = false;                            // the processor denies that there is a hypervisor
  std::vector<std::vector<CacheFiles>> sysfs;   // of each processor that this process may use
  int processors = 0;                           // logical ones that this process may use; 0: unknown
  std::vector<std::string> cpu_max;             // cgroup v2: contents of cpu.max, own group and all above
  std::vector<std::array<std::string, 2>> cfs;  // cgroup v1: contents of cpu.cfs_quota_us and cpu.cfs_period_us
  std::string most_threads;                     // environment variable ORT_TCONV_THREADS
};

struct Resources {
  int threads = 1;         // that can run at once
  int64_t l2_bytes = 0;    // of one core
  int64_t l3_bytes = 0;    // of one logical processor; 0: there is no such cache
  int64_t l3_sharers = 1;  // logical processors that share one, unseen neighbours of a guest included
};

// Conservative where answers are missing, absurd, or those of a virtual machine.  Throws Error for a number of threads
// in the environment that is none.
Resources conclude(const Answers& answers);

// Caches are asked for once in a process, processors and limits each time.
Answers ask();

}  // namespace ort_tconv
