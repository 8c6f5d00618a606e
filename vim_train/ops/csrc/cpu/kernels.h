// The table of kernels that each instruction set provides and dispatch.cpp chooses from. Plain data only: this header
// is shared by translation units built for different machines.
#pragma once

#include "../include/abi.h"

namespace vt {

struct Kernels {
  const char* isa;
  int32_t (*scan_forward)(const vt_scan_args&);
  int32_t (*scan_backward)(const vt_scan_backward_args&);
  int32_t (*conv_forward)(const vt_conv_args&);
  int32_t (*conv_backward)(const vt_conv_backward_args&);
  int32_t (*norm_forward)(const vt_norm_args&);
  int32_t (*norm_backward)(const vt_norm_backward_args&);
};

extern const Kernels kBaselineKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif

}  // namespace vt
