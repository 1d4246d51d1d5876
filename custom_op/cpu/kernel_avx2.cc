#define ORT_TCONV_VECTOR_BYTES 32
#define ORT_TCONV_MAX_VECTORS 2
#define ORT_TCONV_MAX_ROWS 4
#define ORT_TCONV_SET kernel_set_avx2
#define ORT_TCONV_NAME "avx2"
#include "cpu/kernel_impl.h"
