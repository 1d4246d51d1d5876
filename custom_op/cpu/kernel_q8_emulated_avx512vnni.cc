// The AVX512-VNNI kernels' shapes on AVX2 registers, their multiplication in plain arithmetic.
#define ORT_TCONV_VECTOR_BYTES 64
#define ORT_TCONV_WIDE 0
#define ORT_TCONV_SIGNED 0
#define ORT_TCONV_PIXELS 6
#define ORT_TCONV_MAX_VECTORS 4
#define ORT_TCONV_EMULATED 1
#define ORT_TCONV_SET quantized_kernels_emulated_avx512vnni
#define ORT_TCONV_NAME "emulated_avx512vnni"
#define ORT_TCONV_BASE "avx2"
#include "cpu/quantized_impl.h"
