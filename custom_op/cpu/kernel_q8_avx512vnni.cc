#define ORT_TCONV_VECTOR_BYTES 64
#define ORT_TCONV_WIDE 0
#define ORT_TCONV_SIGNED 0
#define ORT_TCONV_PIXELS 6
#define ORT_TCONV_MAX_VECTORS 4
#define ORT_TCONV_EMULATED 0
#define ORT_TCONV_SET quantized_kernels_avx512vnni
#define ORT_TCONV_NAME "avx512vnni"
#define ORT_TCONV_BASE "avx512"
#include "cpu/quantized_impl.h"
