// Exponentials and what is made of them, by the GPU's approximate instructions: about 2 ulp each.
#pragma once

#include <cuda_runtime.h>
#include <math.h>

namespace vt {

constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.69314718f;

__device__ __forceinline__ float exp2_approx(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return exp2f(x);
#endif
}

__device__ __forceinline__ float reciprocal_approx(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1.0f / x;
#endif
}

__device__ __forceinline__ float sigmoid(float x) { return reciprocal_approx(1.0f + exp2_approx(-kLog2E * x)); }

// max(x, 0) + log(1 + e) with e = exp(-|x|). log(1 + e) / e is a polynomial, minimax on [0, 1] with a relative error of
// 3e-8: the logarithm instruction's error is absolute, and small time steps need a relative one.
__device__ __forceinline__ float softplus(float x) {
  float e = exp2_approx(-kLog2E * fabsf(x));
  float p = 5.2326908e-3f;
  p = fmaf(p, e, -2.9505229e-2f);
  p = fmaf(p, e, 7.8225948e-2f);
  p = fmaf(p, e, -0.13663246f);
  p = fmaf(p, e, 0.19106008f);
  p = fmaf(p, e, -0.24842982f);
  p = fmaf(p, e, 0.33319098f);
  p = fmaf(p, e, -0.49999493f);
  p = fmaf(p, e, 0.99999994f);
  return fmaf(p, e, x > 0.0f || x != x ? x : 0.0f);  // unlike fmaxf, this keeps NaN
}

}  // namespace vt
