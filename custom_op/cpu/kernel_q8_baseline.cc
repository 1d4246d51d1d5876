#define ORT_TCONV_VECTOR_BYTES 16
#define ORT_TCONV_WIDE 1
#define ORT_TCONV_SIGNED 0
#define ORT_TCONV_PIXELS 4
#define ORT_TCONV_MAX_VECTORS 2
#define ORT_TCONV_EMULATED 0
#define ORT_TCONV_SET quantized_kernels_baseline
#define ORT_TCONV_NAME "baseline"
#define ORT_TCONV_BASE "baseline"
#include "cpu/quantized_impl.h"
