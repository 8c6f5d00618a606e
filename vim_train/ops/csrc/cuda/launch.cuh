// Launching kernels: on the caller's stream, with a status instead of an exception.
#pragma once

#include <cuda_runtime.h>
#include <stdint.h>

#include "../include/abi.h"

namespace vt {

// Shared memory is always dynamic and never more than every GPU gives without being asked.
constexpr int kMaxSharedBytes = 48 * 1024;

int32_t report(cudaError_t error);  // VT_OK, or VT_CUDA_ERROR with the text kept for vt_last_error()

template <class... Params, class... Args>
int32_t launch(const vt_runtime& runtime, void (*kernel)(Params...), int64_t blocks, int threads, int shared_bytes,
               Args&&... args) {
  if (blocks == 0) return VT_OK;
  if (blocks > INT32_MAX) return VT_UNSUPPORTED;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3((unsigned)blocks);
  config.blockDim = dim3((unsigned)threads);
  config.dynamicSmemBytes = (size_t)shared_bytes;
  config.stream = (cudaStream_t)runtime.stream;
  return report(cudaLaunchKernelEx(&config, kernel, static_cast<Args&&>(args)...));
}

// Places arrays in the caller's workspace; with none given it only measures.
struct Workspace {
  char* base;
  int64_t bytes = 0;

  template <class T>
  T* take(int64_t count) {
    T* place = base ? (T*)(base + bytes) : nullptr;
    bytes += (count * (int64_t)sizeof(T) + 255) / 256 * 256;
    return place;
  }
};

__host__ __device__ constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace vt
