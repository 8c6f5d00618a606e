// x86-64 with AVX2, FMA and F16C (Haswell, Zen and later).
#if defined(__x86_64__)
#if !defined(__AVX2__) || !defined(__FMA__) || !defined(__F16C__)
#error "compile this file with -mavx2 -mfma -mf16c"
#endif
#define VT_ISA avx2
#define VT_LANES 8
#define VT_TABLE kAvx2Kernels
#include "kernels.inc"
#endif
