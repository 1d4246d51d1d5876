// Entry point of the operator library.
#include <mutex>
#include <string>

#include "ort/op.h"

// `options` and `base` come from the ONNX Runtime that loads this library.
extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                               const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (!api) {
    const std::string message = std::string("ort_tconv needs ONNX Runtime 1.") + std::to_string(ORT_API_VERSION) +
                                " or newer, this is " + base->GetVersionString();
    return base->GetApi(1)->CreateStatus(ORT_FAIL, message.c_str());
  }
  Ort::InitApi(api);
  try {
    using namespace ort_tconv;
    // Operators and domains must outlive every session that uses them: they are never destroyed.
    static const CpuOp* const ops[] = {new CpuOp(DType::kFloat32), new CpuOp(DType::kFloat64),
                                       new CpuOp(DType::kFloat16), new CpuOp(DType::kBFloat16)};
    static OrtCustomOpDomain* domain = nullptr;
    static std::mutex mutex;
    std::lock_guard<std::mutex> lock(mutex);
    if (!domain) {
      OrtCustomOpDomain* made = nullptr;
      if (OrtStatus* status = api->CreateCustomOpDomain(kDomain, &made)) return status;
      for (const CpuOp* op : ops)
        if (OrtStatus* status = api->CustomOpDomain_Add(made, op)) {
          api->ReleaseCustomOpDomain(made);
          return status;
        }
      domain = made;
    }
    return api->AddCustomOpDomain(options, domain);
  } catch (const std::exception& e) {
    return api->CreateStatus(ORT_FAIL, e.what());
  } catch (...) {
    return api->CreateStatus(ORT_FAIL, "ort_tconv: registration failed");
  }
}
