// The entry points by which ONNX Runtime 1.23 and newer use the library as an execution provider.
#include <map>
#include <mutex>

#include "core/status.h"
#include "ort/provider/ep.h"

#ifndef ORT_TCONV_VERSION
#define ORT_TCONV_VERSION "0.0.0"
#endif

namespace ort_tconv::provider {
namespace {

constexpr const char* kVendor = "ort-tconv";

// Makes the provider of each session.  It works in CPU memory, as ONNX Runtime's own does: no allocators, no
// data transfer and no streams of its own.
class Factory final : public OrtEpFactory {
 public:
  Factory(const OrtApi& api, const char* version) : OrtEpFactory{}, api_(api), version_(version) {
    ort_version_supported = kProviderApi;
    GetName = [](const OrtEpFactory*) noexcept { return kProviderName; };
    GetVendor = [](const OrtEpFactory*) noexcept { return kVendor; };
    GetVendorId = [](const OrtEpFactory*) noexcept -> uint32_t { return 0; };
    GetVersion = [](const OrtEpFactory*) noexcept { return ORT_TCONV_VERSION; };
    GetSupportedDevices = supported_devices;
    CreateEp = create_ep;
    ReleaseEp = [](OrtEpFactory*, OrtEp* ep) noexcept { delete static_cast<Ep*>(ep); };
    ValidateCompiledModelCompatibilityInfo = [](OrtEpFactory*, const OrtHardwareDevice* const*, size_t, const char*,
                                                OrtCompiledModelCompatibility* result) noexcept -> OrtStatus* {
      *result = OrtCompiledModelCompatibility_EP_NOT_APPLICABLE;  // it compiles no models ahead
      return nullptr;
    };
    CreateAllocator = [](OrtEpFactory*, const OrtMemoryInfo*, const OrtKeyValuePairs*,
                         OrtAllocator** allocator) noexcept -> OrtStatus* {
      *allocator = nullptr;
      return nullptr;
    };
    ReleaseAllocator = [](OrtEpFactory*, OrtAllocator*) noexcept {};
    CreateDataTransfer = [](OrtEpFactory*, OrtDataTransferImpl** transfer) noexcept -> OrtStatus* {
      *transfer = nullptr;
      return nullptr;
    };
    IsStreamAware = [](const OrtEpFactory*) noexcept { return false; };
  }

 private:
  static OrtStatus* ORT_API_CALL supported_devices(OrtEpFactory* self, const OrtHardwareDevice* const* devices,
                                                   size_t count, OrtEpDevice** found, size_t most,
                                                   size_t* number) noexcept {
    const OrtApi& api = static_cast<Factory*>(self)->api_;
    *number = 0;
    return guarded(
        api, "",
        [&] {
          for (size_t i = 0; i < count && *number < most; ++i) {
            if (api.HardwareDevice_Type(devices[i]) != OrtHardwareDeviceType_CPU) continue;
            check(api, api.GetEpApi()->CreateEpDevice(self, devices[i], nullptr, nullptr, &found[*number]));
            ++*number;
          }
        },
        kProviderName);
  }

  static OrtStatus* ORT_API_CALL create_ep(OrtEpFactory* self, const OrtHardwareDevice* const*,
                                           const OrtKeyValuePairs* const*, size_t, const OrtSessionOptions* options,
                                           const OrtLogger* logger, OrtEp** ep) noexcept {
    const OrtApi& api = static_cast<Factory*>(self)->api_;
    const std::string& version = static_cast<Factory*>(self)->version_;
    *ep = nullptr;
    return guarded(api, "", [&] { *ep = new Ep(api, version, options, *logger); }, kProviderName);
  }

  const OrtApi& api_;
  std::string version_;  // of ONNX Runtime
};

// One for each ONNX Runtime in the process.  Never destroyed: sessions release their providers through it,
// and a program may unregister the library before it has closed the last of them.
Factory& factory(const OrtApi& api, const char* version) {
  static std::mutex mutex;
  static auto& made = *new std::map<const OrtApi*, Factory>;
  const std::lock_guard<std::mutex> lock(mutex);
  return made.try_emplace(&api, api, version).first->second;
}

}  // namespace
}  // namespace ort_tconv::provider

#define ORT_TCONV_EXPORT extern "C" __attribute__((visibility("default")))

ORT_TCONV_EXPORT OrtStatus* CreateEpFactories(const char*, const OrtApiBase* base, const OrtLogger*,
                                              OrtEpFactory** factories, size_t most, size_t* number) noexcept {
  using namespace ort_tconv;
  *number = 0;
  const OrtApi* const api = base->GetApi(provider::kProviderApi);
  if (!api)
    return base->GetApi(1)->CreateStatus(
        ORT_FAIL, "TConvExecutionProvider needs ONNX Runtime 1.23 or newer; older ones take converted models");
  return guarded(
      *api, "",
      [&] {
        require(most > 0, "there is no room for a factory");
        factories[0] = &provider::factory(*api, base->GetVersionString());
        *number = 1;
      },
      provider::kProviderName);
}

ORT_TCONV_EXPORT OrtStatus* ReleaseEpFactory(OrtEpFactory*) noexcept { return nullptr; }
