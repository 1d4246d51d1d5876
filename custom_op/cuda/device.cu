#include "cuda/device.h"

#include <cuda_runtime.h>

#include "core/status.h"

namespace ort_tconv::cuda {
namespace {

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  fail("CUDA: ", what, ": ", cudaGetErrorString(error));
}

// -1 for host memory.
int device_of(const void* pointer) {
  cudaPointerAttributes attributes{};
  check(cudaPointerGetAttributes(&attributes, pointer), "finding the device of a pointer");
  const bool device = attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
  return device ? attributes.device : -1;
}

}  // namespace

Device current_device() {
  int id = 0;
  check(cudaGetDevice(&id), "finding the device");
  const auto attribute = [&](cudaDeviceAttr name) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, name, id), "reading the properties of the device");
    return value;
  };
  return {10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor),
          attribute(cudaDevAttrMultiProcessorCount), attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)};
}

DeviceOf::DeviceOf(const void* pointer) {
  const int device = device_of(pointer);
  if (device < 0) return;
  check(cudaGetDevice(&before_), "finding the device");
  check(cudaSetDevice(device), "choosing the device");
}
DeviceOf::~DeviceOf() {
  if (before_ >= 0) cudaSetDevice(before_);
}

bool on_device(const void* pointer) { return device_of(pointer) >= 0; }

void copy_to_device(void* to, const void* from, int64_t bytes) {
  check(cudaMemcpy(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault), "copying to the device");
  finish_default_stream();
}

void finish_default_stream() { check(cudaStreamSynchronize(nullptr), "waiting for the default stream"); }

}  // namespace ort_tconv::cuda
