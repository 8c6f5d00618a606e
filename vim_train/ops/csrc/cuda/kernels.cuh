// What the kernels' files offer to library.cu. Arguments are checked there; all launch on runtime.stream.
#pragma once

#include "../include/abi.h"

namespace vt {

int32_t scan_forward(const vt_scan_args& args);
int32_t scan_backward(const vt_scan_backward_args& args);
int32_t conv_forward(const vt_conv_args& args);
int32_t conv_backward(const vt_conv_backward_args& args);
int32_t norm_forward(const vt_norm_args& args);
int32_t norm_backward(const vt_norm_backward_args& args);

int64_t scan_forward_workspace(const vt_scan_args& args);
int64_t scan_backward_workspace(const vt_scan_backward_args& args);
int64_t conv_backward_workspace(const vt_conv_backward_args& args);
int64_t norm_backward_workspace(const vt_norm_backward_args& args);

}  // namespace vt
