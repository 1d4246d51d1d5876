#define ORT_TCONV_VECTOR_BYTES 16
#define ORT_TCONV_MAX_VECTORS 4
#define ORT_TCONV_MAX_ROWS 12
#define ORT_TCONV_SET kernel_set_neon
#define ORT_TCONV_NAME "neon"
#include "cpu/kernel_impl.h"
