// The C ABI: checks arguments, makes the caller's device current and calls the kernels.
//
// Flags: -std=c++17 -O3, hidden visibility, and VT_CUDA_ARCHS, the compiled architectures in words ("sm_80, sm_90");
// never --use_fast_math: NaN and infinity must pass through.
#include <cuda_runtime.h>
#include <stdint.h>
#include <string.h>

#include "kernels.cuh"
#include "launch.cuh"
#include "scan_schedule.cuh"

#define VT_EXPORT extern "C" __attribute__((visibility("default")))

namespace vt {
namespace {

thread_local char last_error[256];

bool aligned(const void* pointer, uintptr_t bytes) { return (uintptr_t)pointer % bytes == 0; }

bool known_dtype(int32_t dtype) { return dtype == VT_F32 || dtype == VT_BF16 || dtype == VT_F16; }

bool rows_in_reach(const vt_tensor& tensor) {
  return -kMaxRowStride <= tensor.stride_len && tensor.stride_len <= kMaxRowStride;
}

bool supported(const vt_direction& dir, int64_t states) {
  return rows_in_reach(dir.u) && rows_in_reach(dir.delta) && rows_in_reach(dir.B) && rows_in_reach(dir.C) &&
         (states % 4 != 0 || aligned(dir.checkpoints, sizeof(float4)));
}

int32_t check(const vt_scan_args& args) {
  if (args.size != sizeof(vt_scan_args)) return VT_BAD_SIZE;
  bool sizes = known_dtype(args.dtype) && 1 <= args.length && args.length <= kMaxLength && 1 <= args.channels &&
               args.channels <= kMaxChannels && 1 <= args.states && args.states <= kMaxStates;
  if (!sizes || args.directions < 1 || args.directions > 2) return VT_UNSUPPORTED;
  bool all = rows_in_reach(args.z) && rows_in_reach(args.out);
  for (int d = 0; d < args.directions; d++) all = all && supported(args.dir[d], args.states);
  return all ? VT_OK : VT_UNSUPPORTED;
}

int32_t check(const vt_scan_backward_args& args) {
  if (args.size != sizeof(vt_scan_backward_args)) return VT_BAD_SIZE;
  return check(args.forward);
}

int32_t check(const vt_conv_args& args) {
  if (args.size != sizeof(vt_conv_args)) return VT_BAD_SIZE;
  bool supported = known_dtype(args.dtype) && args.width >= 1 && args.width <= VT_MAX_CONV_WIDTH;
  return supported ? VT_OK : VT_UNSUPPORTED;
}

int32_t check(const vt_conv_backward_args& args) {
  if (args.size != sizeof(vt_conv_backward_args)) return VT_BAD_SIZE;
  return check(args.forward);
}

int32_t check(const vt_norm_args& args) {
  if (args.size != sizeof(vt_norm_args)) return VT_BAD_SIZE;
  return known_dtype(args.dtype) ? VT_OK : VT_UNSUPPORTED;
}

int32_t check(const vt_norm_backward_args& args) {
  if (args.size != sizeof(vt_norm_backward_args)) return VT_BAD_SIZE;
  return check(args.forward);
}

const vt_runtime& runtime_of(const vt_scan_args& args) { return args.runtime; }
const vt_runtime& runtime_of(const vt_conv_args& args) { return args.runtime; }
const vt_runtime& runtime_of(const vt_norm_args& args) { return args.runtime; }
template <class Args>
const vt_runtime& runtime_of(const Args& args) {
  return args.forward.runtime;
}

// Makes a device current for as long as this lives. To set the one that is current already would only cost time.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    error_ = cudaGetDevice(&before_);
    if (error_ != cudaSuccess || before_ == device) return;
    error_ = cudaSetDevice(device);
    changed_ = error_ == cudaSuccess;
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(before_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

  cudaError_t error() const { return error_; }

 private:
  int before_ = 0;
  bool changed_ = false;
  cudaError_t error_;
};

template <class Args>
int32_t run(int32_t (*kernel)(const Args&), const Args* args) {
  int32_t status = check(*args);
  if (status != VT_OK) return status;
  DeviceGuard guard(runtime_of(*args).device);
  status = report(guard.error());
  return status == VT_OK ? kernel(*args) : status;
}

// What run() will refuse needs no workspace.
template <class Args>
int64_t measure(int64_t (*workspace)(const Args&), const Args* args) {
  return check(*args) == VT_OK ? workspace(*args) : 0;
}

}  // namespace

int32_t report(cudaError_t error) {
  if (error == cudaSuccess) return VT_OK;
  cudaGetLastError();  // or torch would find it later and take it for its own
  strncpy(last_error, cudaGetErrorString(error), sizeof last_error - 1);
  return VT_CUDA_ERROR;
}

}  // namespace vt

VT_EXPORT int32_t vt_abi_version(void) { return VT_ABI_VERSION; }
VT_EXPORT const char* vt_target(void) { return VT_CUDA_ARCHS; }
VT_EXPORT int32_t vt_cuda_version(void) { return CUDART_VERSION; }
VT_EXPORT const char* vt_last_error(void) { return vt::last_error; }

VT_EXPORT int32_t vt_scan_forward(const vt_scan_args* args) { return vt::run(vt::scan_forward, args); }
VT_EXPORT int32_t vt_scan_backward(const vt_scan_backward_args* args) { return vt::run(vt::scan_backward, args); }
VT_EXPORT int32_t vt_conv_forward(const vt_conv_args* args) { return vt::run(vt::conv_forward, args); }
VT_EXPORT int32_t vt_conv_backward(const vt_conv_backward_args* args) { return vt::run(vt::conv_backward, args); }
VT_EXPORT int32_t vt_norm_forward(const vt_norm_args* args) { return vt::run(vt::norm_forward, args); }
VT_EXPORT int32_t vt_norm_backward(const vt_norm_backward_args* args) { return vt::run(vt::norm_backward, args); }

VT_EXPORT int64_t vt_scan_forward_workspace(const vt_scan_args* args) {
  return vt::measure(vt::scan_forward_workspace, args);
}
VT_EXPORT int64_t vt_scan_backward_workspace(const vt_scan_backward_args* args) {
  return vt::measure(vt::scan_backward_workspace, args);
}
VT_EXPORT int64_t vt_conv_backward_workspace(const vt_conv_backward_args* args) {
  return vt::measure(vt::conv_backward_workspace, args);
}
VT_EXPORT int64_t vt_norm_backward_workspace(const vt_norm_backward_args* args) {
  return vt::measure(vt::norm_backward_workspace, args);
}
