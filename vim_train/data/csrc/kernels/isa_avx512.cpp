// x86-64 with AVX-512 and its 8-bit dot products (Ice Lake, Zen 4 and later). No FMA: it would round where Pillow does
// not.
#if defined(__x86_64__)
#if !defined(__AVX512VNNI__) || !defined(__AVX512VL__) || !defined(__AVX512BW__)
#error "compile this file with -mavx2 -mavx512f -mavx512bw -mavx512vl -mavx512vnni"
#endif
#define VTP_ISA avx512
#define VTP_TABLE kAvx512Kernels
#include "kernels.inc"
#endif
