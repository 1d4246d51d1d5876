// By itself, like the provider: its headers may be newer than the program's.
#include "fuzz/provider.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace ort_tconv::fuzz {

void add_provider(const OrtApiBase* base, OrtEnv* env, OrtSessionOptions* options,
                  const std::map<std::string, std::string>& settings) {
  constexpr const char* kName = "TConvExecutionProvider";
  const OrtApi* const api = base->GetApi(23);
  const auto done = [&](OrtStatus* status) {
    if (!status) return;
    std::fprintf(stderr, "%s: %s\n", kName, api->GetErrorMessage(status));
    std::abort();
  };
  static const bool registered = [&] {
    done(api->RegisterExecutionProviderLibrary(env, kName, ORT_TCONV_DOOR));
    return true;
  }();
  const OrtEpDevice* const* devices = nullptr;
  size_t count = 0;
  done(api->GetEpDevices(env, &devices, &count));
  std::vector<const OrtEpDevice*> ours;
  for (size_t i = 0; i < count; ++i)
    if (!std::strcmp(api->EpDevice_EpName(devices[i]), kName)) ours.push_back(devices[i]);
  std::vector<const char*> keys, values;
  for (const auto& [key, value] : settings) keys.push_back(key.c_str()), values.push_back(value.c_str());
  if (!registered || ours.empty()) std::abort();
  done(api->SessionOptionsAppendExecutionProvider_V2(options, env, ours.data(), ours.size(), keys.data(), values.data(),
                                                     keys.size()));
}

}  // namespace ort_tconv::fuzz
