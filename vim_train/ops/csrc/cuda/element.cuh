// The element types of activations, and how they are read and written: arithmetic is fp32 whatever they are.
#pragma once

#include <cuda_runtime.h>
#include <stdint.h>

#include "../include/abi.h"

namespace vt {

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(bf16 x) { return __uint_as_float((uint32_t)x.bits << 16); }
__device__ __forceinline__ float widen(f16 x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
#else
  _Float16 y;
  memcpy(&y, &x, sizeof y);
  return (float)y;
#endif
}

template <class T>
__device__ __forceinline__ T narrow(float x);

template <>
__device__ __forceinline__ float narrow<float>(float x) {
  return x;
}

// To nearest, ties to even; NaN stays NaN.
template <>
__device__ __forceinline__ bf16 narrow<bf16>(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  bf16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
#else
  uint32_t bits = __float_as_uint(x);
  uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return {(uint16_t)(x == x ? rounded : 0x7fffu)};
#endif
}

template <>
__device__ __forceinline__ f16 narrow<f16>(float x) {
  f16 y;
#ifdef __CUDA_ARCH__
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#else
  _Float16 half = (_Float16)x;
  memcpy(&y, &half, sizeof y);
#endif
  return y;
}

// Calls body with a value of the element type that `dtype` names.
template <class Body>
int32_t with_element(int32_t dtype, const Body& body) {
  switch (dtype) {
    case VT_F32: return body(float{});
    case VT_BF16: return body(bf16{});
    case VT_F16: return body(f16{});
    default: return VT_UNSUPPORTED;
  }
}

// The row (batch, l) of a tensor.
template <class T>
__host__ __device__ __forceinline__ T* row_of(const vt_tensor& tensor, int64_t batch, int64_t l) {
  return (T*)tensor.data + batch * tensor.stride_batch + l * tensor.stride_len;
}

}  // namespace vt
