// Runs the engine where no session has a pool of threads that it could use: the Python module, and tests.
#pragma once

#include <cstdlib>
#include <new>
#include <thread>
#include <vector>

#include "cpu/run.h"

namespace ort_tconv {

// A thread for each task but the first, for as long as the task takes.
class ThreadExecutor final : public Executor {
 public:
  void parallel(int64_t n, const std::function<void(int64_t)>& fn) override {
    std::vector<std::thread> threads;
    for (int64_t i = 1; i < n; ++i) threads.emplace_back(fn, i);
    fn(0);
    for (auto& t : threads) t.join();
  }
  void* allocate(size_t bytes) override {
    void* p = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p) throw std::bad_alloc();
    return p;
  }
  void release(void* p) override { std::free(p); }
};

}  // namespace ort_tconv
