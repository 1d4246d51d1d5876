#define ORT_TCONV_VECTOR_BYTES 64
#define ORT_TCONV_MAX_VECTORS 4
#define ORT_TCONV_MAX_ROWS 12
#define ORT_TCONV_SET kernel_set_avx512
#define ORT_TCONV_NAME "avx512"
#include "cpu/kernel_impl.h"
