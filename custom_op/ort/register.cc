// Entry point of the operator library.
#include <mutex>
#include <string>
#include <vector>

#include "ort/op.h"
#ifdef ORT_TCONV_CUDA
#include "ort/cuda_op.h"
#endif

// `options` and `base` come from the ONNX Runtime that loads this library.
extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                               const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (!api) {
    const std::string message = std::string("ort_tconv needs ONNX Runtime 1.") + std::to_string(ORT_API_VERSION) +
                                " or newer, this is " + base->GetVersionString();
    return base->GetApi(1)->CreateStatus(ORT_FAIL, message.c_str());
  }
  // Once: threads of other sessions may be reading it.
  [[maybe_unused]] static const bool initialized = (Ort::InitApi(api), true);
  try {
    using namespace ort_tconv;
    // Operators and domains must outlive every session that uses them: they are never destroyed.
    static const std::vector<const OrtCustomOp*> ops = [] {
      std::vector<const OrtCustomOp*> made;
      for (DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16}) {
        made.push_back(new Operator<CpuKernel>(dtype, "CPUExecutionProvider"));
#ifdef ORT_TCONV_CUDA
        // ONNX Runtime's own provider, and the same as a plug-in.  Where neither is there, nor a driver, these
        // are entries of a table that nobody reads.
        made.push_back(new Operator<CudaKernel>(dtype, "CUDAExecutionProvider"));
        made.push_back(new Operator<CudaKernel>(dtype, "CudaPluginExecutionProvider"));
#endif
      }
      return made;
    }();
    static OrtCustomOpDomain* domain = nullptr;
    static std::mutex mutex;
    std::lock_guard<std::mutex> lock(mutex);
    if (!domain) {
      OrtCustomOpDomain* made = nullptr;
      if (OrtStatus* status = api->CreateCustomOpDomain(kDomain, &made)) return status;
      for (const OrtCustomOp* op : ops)
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
