#include "cpu/weight_cache.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <system_error>
#include <utility>

namespace ort_tconv {
namespace {

// Weights are recognised by a 128-bit keyed hash.  The key is drawn anew in every process, so that a
// model cannot be made to collide with another's weights.
using Digest = std::array<uint64_t, 2>;

uint64_t mix(uint64_t a, uint64_t b) {
  const unsigned __int128 p = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(p) ^ static_cast<uint64_t>(p >> 64);
}

Digest digest(const void* data, size_t bytes) {
  static const std::array<uint64_t, 6> key = [] {
    // Not std::random_device: linked statically, it asks for symbols of the newest C library.
    std::array<uint64_t, 6> k;
    if (getentropy(k.data(), sizeof k) != 0) throw std::system_error(errno, std::generic_category(), "getentropy");
    for (auto& v : k) v |= 1;
    return k;
  }();
  uint64_t a = key[0] ^ bytes, b = key[1];
  const char* p = static_cast<const char*>(data);
  for (; bytes >= 16; bytes -= 16, p += 16) {
    uint64_t v[2];
    std::memcpy(v, p, 16);
    a = mix(a ^ v[0] ^ key[2], v[1] ^ key[3]);
    b = mix(b ^ v[1] ^ key[4], v[0] ^ key[5]) + a;
  }
  uint64_t rest[2] = {};
  if (bytes > 0) std::memcpy(rest, p, bytes);  // empty weights may have no address
  return {mix(a ^ rest[0], rest[1] ^ key[3]), mix(b ^ rest[1], rest[0] ^ key[5])};
}

struct Entry {
  std::mutex packing;  // held by the first to ask, while others wait
  std::weak_ptr<const PackedWeights> weights;
};

struct Cache {
  std::mutex mutex;
  std::map<std::pair<std::vector<int64_t>, Digest>, std::shared_ptr<Entry>> entries;
};

// Never destroyed: sessions may outlive static objects at process exit.
Cache& cache() {
  static Cache* const c = new Cache;
  return *c;
}

}  // namespace

std::shared_ptr<const PackedWeights> shared_weights(const std::vector<int64_t>& layout, const void* w, size_t bytes,
                                                    const std::function<std::shared_ptr<const PackedWeights>()>& pack) {
  Cache& c = cache();
  std::shared_ptr<Entry> entry;
  const Digest d = digest(w, bytes);
  {
    std::lock_guard<std::mutex> lock(c.mutex);
    for (auto it = c.entries.begin(); it != c.entries.end();) {
      bool dead = it->second.use_count() == 1;  // then nobody waits for its mutex
      if (dead) {
        std::lock_guard<std::mutex> packed(it->second->packing);
        dead = it->second->weights.expired();
      }
      it = dead ? c.entries.erase(it) : std::next(it);
    }
    std::pair key(layout, d);
    auto found = c.entries.find(key);
    if (found == c.entries.end()) found = c.entries.emplace(std::move(key), std::make_shared<Entry>()).first;
    entry = found->second;
  }
  std::lock_guard<std::mutex> lock(entry->packing);
  if (auto alive = entry->weights.lock()) return alive;
  auto packed = pack();
  entry->weights = packed;
  return packed;
}

WeightCacheUse weight_cache_use() {
  std::vector<std::shared_ptr<Entry>> entries;
  {
    Cache& c = cache();
    std::lock_guard<std::mutex> lock(c.mutex);
    for (const auto& [key, entry] : c.entries) entries.push_back(entry);
  }
  WeightCacheUse use;
  for (const auto& entry : entries) {
    std::lock_guard<std::mutex> lock(entry->packing);
    if (const auto alive = entry->weights.lock()) {
      ++use.entries;
      use.bytes += alive->buffer.bytes;
    }
  }
  return use;
}

}  // namespace ort_tconv
