#define ORT_TCONV_VECTOR_BYTES 16
#define ORT_TCONV_MAX_VECTORS 2
#define ORT_TCONV_MAX_ROWS 4
#define ORT_TCONV_SET kernel_set_baseline
#define ORT_TCONV_NAME "baseline"
#include "cpu/kernel_impl.h"
