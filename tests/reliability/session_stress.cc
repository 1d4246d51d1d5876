// Threads and sessions of ONNX Runtime, for the sanitizers: 16 threads on one session with changing shapes,
// then sessions made, run and destroyed by several threads at once.  The sessions have no threads of their
// own: ONNX Runtime's pool is not instrumented, and a thread sanitizer would take its queues for races.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "fuzz/session.h"

using namespace ort_tconv::fuzz;

namespace {

constexpr int kThreads = 16, kRounds = 12, kMakers = 4, kSessions = 25;

Model layer(bool open) {
  Model m;
  m.attributes["strides"] = Attribute{7, {2, 2}, {}, {}};
  m.attributes["pads"] = Attribute{7, {1, 1, 1, 1}, {}, {}};
  m.inputs = {{"x", 1, {1, 8, 6, 5}, true, false, {1, 8, 6, 5}, 0},
              {"w", 1, {8, 12, 4, 4}, true, true, {8, 12, 4, 4}, 0},
              {"b", 1, {12}, true, true, {12}, 0}};
  if (open) m.inputs[0].declared = {-1, 8, -2, -3};
  return m;
}

// Of one run with an input of this size.
std::vector<float> result(Ort::Session& session, const Model& m) {
  const auto values = run(session, m);
  const auto shape = values[0].GetTensorTypeAndShapeInfo();
  const float* data = values[0].GetTensorData<float>();
  return {data, data + shape.GetElementCount()};
}

int failures(bool provider) {
  Model open = layer(true);
  open.onnx = provider;
  const std::string bytes = serialized(open);
  std::atomic<int> failed{0};
  {
    Ort::Session session(environment(), bytes.data(), bytes.size(), options(provider));
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t)
      threads.emplace_back([&, t] {
        std::vector<float> first[3];
        for (int round = 0; round < kRounds; ++round) {
          Model m = open;  // three sizes a thread, 48 in all: more than a node remembers
          m.inputs[0].dims = {1 + t % 2, 8, 1 + t, 4 + round % 3};
          const auto y = result(session, m);
          auto& expected = first[round % 3];
          if (expected.empty()) expected = y;
          if (y != expected) ++failed;
        }
      });
    for (auto& t : threads) t.join();
  }
  Model fixed = layer(false);
  fixed.onnx = provider;
  const std::string fixed_bytes = serialized(fixed);
  std::vector<std::thread> makers;
  for (int t = 0; t < kMakers; ++t)
    makers.emplace_back([&] {
      for (int i = 0; i < kSessions; ++i) {
        Ort::Session session(environment(), fixed_bytes.data(), fixed_bytes.size(), options(provider));
        if (result(session, fixed).empty()) ++failed;
      }
    });
  for (auto& t : makers) t.join();
  return failed;
}

}  // namespace

int main() {
  int failed = 0, ways = 0;
  for (const bool provider : kWays) {
    failed += failures(provider);
    ++ways;
  }
  std::printf("session_stress: %d ways, %d threads on one session, %d sessions by %d threads, %d failed\n", ways,
              kThreads, kMakers * kSessions, kMakers, failed);
  return failed != 0;
}
