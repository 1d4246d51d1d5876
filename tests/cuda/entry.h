// What the tests call through ctypes: one transposed convolution, planned and run by the CUDA engine, on
// the emulator or on a GPU.  Integers are int64, lists are pointers to `rank` of them.
#pragma once

#include <cstdint>

extern "C" {

struct tconv_call {
  int64_t rank, batch, channels, out_channels, group;
  const int64_t *in, *kernel, *stride, *dilation, *pad_begin, *pad_end, *out;
  int64_t dtype;  // as in ort_tconv::DType
  const void *x, *w, *b, *z;
  void* y;
  int64_t activation;  // as in ort_tconv::ActivationKind
  double a, b_parameter;
  const float* slopes;
  int64_t slope_count;
  // The device to plan for; capability 0 asks the one that is there.
  int64_t capability, multiprocessors, shared_bytes;
  int64_t allow_tf32, splits;
  const char *kernel_name, *tile;
  void* stream;
};

// 0, or 1 with the error in `text`; on success `text` describes the plan.
__attribute__((visibility("default"))) int tconv_run(const tconv_call* call, char* text, int64_t size);
}
