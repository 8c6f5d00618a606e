// What every machine of the architecture has: SSE2 on x86-64, NEON on aarch64.
#if defined(__aarch64__)
#define VT_ISA neon
#else
#define VT_ISA baseline
#endif
#define VT_LANES 4
#define VT_TABLE kBaselineKernels
#include "kernels.inc"
