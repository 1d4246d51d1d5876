// A library for ONNX Runtime to open: its entry points lead back to the program, which has the provider.
#include <dlfcn.h>

#include <cstddef>

#define DOOR extern "C" __attribute__((visibility("default")))

DOOR void* CreateEpFactories(const char* name, const void* base, const void* logger, void** factories, size_t most,
                             size_t* number) {
  using Create = void*(const char*, const void*, const void*, void**, size_t, size_t*);
  auto* const create = reinterpret_cast<Create*>(dlsym(RTLD_DEFAULT, "CreateEpFactories"));
  return create(name, base, logger, factories, most, number);
}

DOOR void* ReleaseEpFactory(void* factory) {
  return reinterpret_cast<void* (*)(void*)>(dlsym(RTLD_DEFAULT, "ReleaseEpFactory"))(factory);
}
