#include "cpu/pages.h"

#include <sys/mman.h>
#include <unistd.h>
#ifdef __GLIBC__  // which the headers above tell
#include <malloc.h>
#endif

#include <cinttypes>
#include <cstdint>
#include <cstdio>

namespace ort_tconv {
namespace {

constexpr size_t kWorthIt = 1 << 20;  // bytes: less is not worth a look at the process's mappings

// Whether the range lies within one mapping of a file.
bool is_of_file(uintptr_t begin, uintptr_t end) {
  std::FILE* maps = std::fopen("/proc/self/maps", "r");
  if (!maps) return false;
  bool found = false;
  char line[512];
  for (bool whole = true; std::fgets(line, sizeof(line), maps);) {
    uintptr_t first = 0, last = 0;
    unsigned long inode = 0;
    // A long path is read in several pieces, of which only the first is a line.
    if (whole && std::sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %*s %*s %*s %lu", &first, &last, &inode) == 3 &&
        first <= begin && end <= last) {
      found = inode != 0;
      break;
    }
    whole = false;
    for (const char* p = line; *p; ++p) whole = *p == '\n';
  }
  std::fclose(maps);
  return found;
}

}  // namespace

void let_go(const void* data, size_t bytes) {
#ifdef MADV_PAGEOUT
  if (bytes < kWorthIt) return;
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / page * page;
  // Those of no file would have to be written somewhere first.
  if (begin < end && is_of_file(begin, end)) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_PAGEOUT);
#else
  static_cast<void>(data), static_cast<void>(bytes), static_cast<void>(kWorthIt), static_cast<void>(is_of_file);
#endif
}

void return_free_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

}  // namespace ort_tconv
