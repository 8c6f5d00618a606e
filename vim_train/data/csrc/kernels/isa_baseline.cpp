// What every processor of the architecture has: SSE2 on x86-64, NEON by vector extensions on arm64.
#define VTP_ISA baseline
#define VTP_TABLE kBaselineKernels
#include "kernels.inc"
