// The NEON dot product's kernels with their multiplication in plain arithmetic.
#define ORT_TCONV_VECTOR_BYTES 16
#define ORT_TCONV_WIDE 0
#define ORT_TCONV_SIGNED 1
#define ORT_TCONV_PIXELS 6
#define ORT_TCONV_MAX_VECTORS 4
#define ORT_TCONV_EMULATED 1
#define ORT_TCONV_SET quantized_kernels_emulated_neondot
#define ORT_TCONV_NAME "emulated_neondot"
#define ORT_TCONV_BASE "baseline"
#include "cpu/quantized_impl.h"
