// The part of CUDA that the kernels use, on the host: compiled with g++, a kernel runs one block at a time and every
// thread of the block is a fibre. fibres.cpp says how they are scheduled and what is checked.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <tuple>
#include <type_traits>

#define CUDART_VERSION 13000

#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__  // `extern __shared__ unsigned char shared[]` names the array that fibres.cpp defines
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct __align__(8) float2 {
  float x, y;
};
struct __align__(16) float4 {
  float x, y, z, w;
};
struct __align__(8) uint2 {
  unsigned x, y;
};
struct __align__(16) uint4 {
  unsigned x, y, z, w;
};
struct __align__(8) int2 {
  int x, y;
};
struct __align__(16) int4 {
  int x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidDevice = 101,
  cudaErrorLaunchFailure = 719,  // a check of the fibres failed; cudaGetErrorString() says which
};
typedef struct CUstream_st* cudaStream_t;
struct cudaLaunchAttribute;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetDevice(int* device);  // there is device 0 alone
cudaError_t cudaSetDevice(int device);
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaPeekAtLastError() { return cudaSuccess; }

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace host {

// Runs body(context) on every thread of every block. [context, context + context_bytes) holds the kernel's parameters.
cudaError_t run_grid(const cudaLaunchConfig_t& config, void (*body)(void*), void* context, size_t context_bytes);

void sync_block(const char* file, int line);
void sync_warp(unsigned mask, const char* file, int line);
uint64_t exchange(unsigned mask, uint64_t value, int source_lane, int line);
int lane();

template <class T>
T exchange_value(unsigned mask, T value, int source_lane, int line) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "CUDA shuffles 4 or 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  bits = exchange(mask, bits, source_lane, line);
  memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace host

template <class... Params, class... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...), Args&&... args) {
  struct Call {
    void (*kernel)(Params...);
    std::tuple<Params...> params;
  } call{kernel, std::tuple<Params...>(static_cast<Args&&>(args)...)};
  auto body = [](void* context) {
    Call& call = *static_cast<Call*>(context);
    std::apply(call.kernel, call.params);
  };
  return host::run_grid(*config, body, &call, sizeof call);
}

// Lines tell barriers and shuffles apart: threads of one block must meet at the same one.
inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  host::sync_block(file, line);
}
inline void __syncwarp(unsigned mask = ~0u, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  host::sync_warp(mask, file, line);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source_lane, int width = 32, int line = __builtin_LINE()) {
  int first = host::lane() & ~(width - 1);
  return host::exchange_value(mask, value, first + (source_lane & (width - 1)), line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int line = __builtin_LINE()) {
  return host::exchange_value(mask, value, host::lane() ^ lane_mask, line);
}

using std::max;
using std::min;
template <class T>
T __ldg(const T* p) {
  T x;
  memcpy(&x, p, sizeof x);  // trace.cpp would see *p twice: as a whole and by its members
  return x;
}
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }

template <class To, class From>
To host_bit_cast(From from) {
  To to;
  static_assert(sizeof to == sizeof from, "the same bits");
  memcpy(&to, &from, sizeof to);
  return to;
}
inline float __uint_as_float(unsigned x) { return host_bit_cast<float>(x); }
inline float __int_as_float(int x) { return host_bit_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return host_bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return host_bit_cast<int>(x); }
