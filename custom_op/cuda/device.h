// The CUDA runtime as the operator needs it when a kernel is created.  Everything throws Error.
#pragma once

#include "cuda/plan.h"

namespace ort_tconv::cuda {

// The device that is current in this thread.
Device current_device();

// Makes the device that owns a pointer current for as long as this lives; a host pointer changes nothing.
class DeviceOf {
 public:
  explicit DeviceOf(const void* pointer);
  ~DeviceOf();
  DeviceOf(const DeviceOf&) = delete;
  DeviceOf& operator=(const DeviceOf&) = delete;

 private:
  int before_ = -1;
};

bool on_device(const void* pointer);

// Copies to device memory, from the device or the host, and returns when it is done.
void copy_to_device(void* to, const void* from, int64_t bytes);

// Waits for the default stream.
void finish_default_stream();

}  // namespace ort_tconv::cuda
