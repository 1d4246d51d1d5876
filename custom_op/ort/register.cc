// Entry point of the operator library.
#include <list>

#include "ort/op.h"
#include "ort/qlinear_op.h"
#ifdef ORT_TCONV_CUDA
#include "ort/cuda_op.h"
#endif

namespace {

using namespace ort_tconv;

struct Operators {
  std::list<Operator<CpuKernel>> cpu;
  std::list<QuantizedOperator> quantized;
#ifdef ORT_TCONV_CUDA
  // ONNX Runtime's own provider, and the same as a plug-in.  Where neither is there, nor a driver, these are
  // entries of a table that nobody reads.
  std::list<Operator<CudaKernel>> cuda;
#endif

  Operators() {
    for (QuantizedType x : {QuantizedType::kUint8, QuantizedType::kInt8})
      for (QuantizedType w : {QuantizedType::kInt8, QuantizedType::kUint8})
        for (QuantizedType y : {QuantizedType::kUint8, QuantizedType::kInt8, QuantizedType::kFloat32})
          for (bool float_bias : {false, true}) quantized.emplace_back(QuantizedTypes{x, w, y}, float_bias);
    for (DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16}) {
      cpu.emplace_back(dtype, "CPUExecutionProvider");
#ifdef ORT_TCONV_CUDA
      cuda.emplace_back(dtype, "CUDAExecutionProvider");
      cuda.emplace_back(dtype, "CudaPluginExecutionProvider");
#endif
    }
  }
};

// Throws Error or std::bad_alloc.
OrtCustomOpDomain* make_domain(const OrtApi& api) {
  // Operators and domains must outlive every session that uses them: they are never destroyed.
  static Operators& operators = *new Operators;
  OrtCustomOpDomain* domain = nullptr;
  check(api, api.CreateCustomOpDomain(kDomain, &domain));
  Owned<OrtCustomOpDomain> made(domain, api.ReleaseCustomOpDomain);
  for (auto& op : operators.cpu) check(api, api.CustomOpDomain_Add(domain, &op));
  for (auto& op : operators.quantized) check(api, api.CustomOpDomain_Add(domain, &op));
#ifdef ORT_TCONV_CUDA
  for (auto& op : operators.cuda) check(api, api.CustomOpDomain_Add(domain, &op));
#endif
  return made.release();
}

}  // namespace

// `options` and `base` come from the ONNX Runtime that loads this library.
extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                               const OrtApiBase* base) noexcept {
  const OrtApi* api = base->GetApi(kOperatorApi);
  try {
    require(api, "ort_tconv needs ONNX Runtime 1.", kOperatorApi, " or newer, this is ", base->GetVersionString());
    // Once: threads of other sessions may be reading it.
    [[maybe_unused]] static const bool initialized = (Ort::InitApi(api), true);
    static OrtCustomOpDomain* const domain = make_domain(*api);
    return api->AddCustomOpDomain(options, domain);
  } catch (const std::exception& e) {
    return base->GetApi(1)->CreateStatus(ORT_FAIL, e.what());
  } catch (...) {
    return base->GetApi(1)->CreateStatus(ORT_FAIL, "ort_tconv: registration failed");
  }
}
