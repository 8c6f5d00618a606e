// x86-64 with AVX2 (Haswell, Zen and later). No FMA: it would round where Pillow does not.
#if defined(__x86_64__)
#if !defined(__AVX2__)
#error "compile this file with -mavx2"
#endif
#define VTP_ISA avx2
#define VTP_TABLE kAvx2Kernels
#include "kernels.inc"
#endif
