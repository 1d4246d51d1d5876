// Each allocation that the operator makes fails once, in registration, in the creation of a session and in
// runs: each time a status has to come out, no leak and nothing else, and the same is tried again with success.
#include <cstdio>
#include <functional>

#include "fuzz/allocation.h"
#include "fuzz/session.h"

using namespace ort_tconv;
using namespace ort_tconv::fuzz;

namespace {

Model layer(bool constant, bool open, const char* algorithm) {
  Model m;
  m.attributes["strides"] = Attribute{7, {2, 2}, {}, {}};
  m.attributes["pads"] = Attribute{7, {1, 1, 1, 1}, {}, {}};
  m.attributes["algorithm"] = Attribute{3, {}, {}, algorithm};
  m.inputs = {{"x", 1, {1, 8, 6, 5}, true, false, {1, 8, 6, 5}, 0},
              {"w", 1, {8, 12, 4, 4}, true, constant, {8, 12, 4, 4}, 0},
              {"b", 1, {12}, true, true, {12}, 0}};
  if (open) m.inputs[0].declared = {-1, 8, -2, -3};
  return m;
}

// Tries with one allocation after the other failing, until none is left to fail; the number of failures
// that were reported, -1 if `what` went wrong in another way.
int64_t each_fails(const std::function<void()>& what) {
  int64_t reported = 0;
  for (int64_t n = 0;; ++n) {
    bool thrown = false;
    fuzz::fail_allocation(n);
    try {
      what();
    } catch (const Ort::Exception&) {
      thrown = true;
    } catch (const std::bad_alloc&) {  // of the test itself, which is this program's code, too
      thrown = true;
    }
    if (!fuzz::allocation_failed()) return thrown ? -1 : reported;
    reported += thrown;
  }
}

}  // namespace

int main() {
  int failed = 0;
  const auto report = [&](const char* what, const char* of, int64_t reported) {
    std::printf("%s %s: %lld failed allocations reported\n", what, of, static_cast<long long>(reported));
    failed += reported <= 0;
  };
  environment();
  report("registration", "of the library", each_fails([] {
           Ort::SessionOptions o;
           Ort::ThrowOnError(RegisterCustomOps(o, OrtGetApiBase()));
         }));
  for (const bool provider : kWays)
    for (const char* algorithm : {"direct", "narrow", "winograd"})
      for (bool constant : {true, false}) {
        if (provider && algorithm[0] != 'w') continue;  // it is an option there, and the engines are the same
        Model m = layer(constant, !constant, algorithm);
        m.onnx = provider;
        const char* const of = provider ? "with the provider" : algorithm;
        const std::string bytes = serialized(m);
        const Ort::SessionOptions o = options(provider);
        report("creation", of, each_fails([&] { Ort::Session(environment(), bytes.data(), bytes.size(), o); }));
        Ort::Session session(environment(), bytes.data(), bytes.size(), o);
        // Each attempt with a size that the node has not seen, or has forgotten.
        int64_t attempt = 0;
        report("run", of, each_fails([&] {
                 Model sized = m;
                 if (!constant) sized.inputs[0].dims = {1, 8, 3 + attempt++ % 64, 5};
                 if (run(session, sized).empty()) std::abort();
               }));
      }
  std::printf("session_faults: %d failed\n", failed);
  return failed != 0;
}
