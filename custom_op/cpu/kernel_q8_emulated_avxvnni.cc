// The AVX-VNNI kernels with their multiplication in plain arithmetic: tests run them on any x86.  Never chosen by
// itself, as the other emulated ones.
#define ORT_TCONV_VECTOR_BYTES 32
#define ORT_TCONV_WIDE 0
#define ORT_TCONV_SIGNED 0
#define ORT_TCONV_PIXELS 6
#define ORT_TCONV_MAX_VECTORS 2
#define ORT_TCONV_EMULATED 1
#define ORT_TCONV_SET quantized_kernels_emulated_avxvnni
#define ORT_TCONV_NAME "emulated_avxvnni"
#define ORT_TCONV_BASE "avx2"
#include "cpu/quantized_impl.h"
