// A library for ONNX Runtime to open: its entry points lead back to the program, which has the provider.
#include <dlfcn.h>

#include <cstddef>

#define DOOR extern "C" __attribute__((visibility("default")))

// As ONNX Runtime declares them: sanitizers compare the types of functions that are called by pointer.
struct OrtApiBase;
struct OrtEpFactory;
struct OrtLogger;
struct OrtStatus;

DOOR OrtStatus* CreateEpFactories(const char* name, const OrtApiBase* base, const OrtLogger* logger,
                                  OrtEpFactory** factories, size_t most, size_t* number) {
  const auto create = reinterpret_cast<decltype(&CreateEpFactories)>(dlsym(RTLD_DEFAULT, "CreateEpFactories"));
  return create(name, base, logger, factories, most, number);
}

DOOR OrtStatus* ReleaseEpFactory(OrtEpFactory* factory) {
  const auto release = reinterpret_cast<decltype(&ReleaseEpFactory)>(dlsym(RTLD_DEFAULT, "ReleaseEpFactory"));
  return release(factory);
}
