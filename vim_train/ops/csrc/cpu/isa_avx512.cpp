// x86-64 with AVX-512 F, BW, DQ and VL (Skylake server, Zen 4 and later).
#if defined(__x86_64__)
#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512DQ__) || !defined(__AVX512VL__)
#error "compile this file with -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c"
#endif
#define VT_ISA avx512
#define VT_LANES 16
#define VT_TABLE kAvx512Kernels
#include "kernels.inc"
#endif
