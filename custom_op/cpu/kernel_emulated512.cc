// The AVX-512 kernels' shapes (16 lanes, 4 vectors a block) on AVX2 registers: lets any x86 test what
// the engines do with them.  Never chosen by itself.
#define ORT_TCONV_VECTOR_BYTES 64
#define ORT_TCONV_MAX_VECTORS 4
#define ORT_TCONV_MAX_ROWS 12
#define ORT_TCONV_SET kernel_set_emulated512
#define ORT_TCONV_NAME "emulated512"
#include "cpu/kernel_impl.h"
