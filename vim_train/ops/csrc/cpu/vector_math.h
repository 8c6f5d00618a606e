// exp, sigmoid and softplus on vectors, accurate to about 1e-7 of the value.
#pragma once

#include "simd.h"

namespace vt {
namespace VT_ISA {

constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.69314718f;
constexpr float kLargestExponent = 126.0f;  // |t| up to here needs no clamp before exp2

// How 2^t is taken: t = k + j / 2^kTableBits + f with integers k and 0 <= j < 2^kTableBits, and f at most half a table
// step. 2^(j / 2^kTableBits) comes from a table in registers, 2^k by adding k to its exponent field, 2^f from a
// polynomial. A larger table needs a shorter polynomial; without a permute instruction the table has one entry. The
// polynomials are minimax for the relative error among those with p(0) = 1, since decays near one are multiplied
// hundreds of times and must not drift. The relative error is below 1e-7 in all variants.
#if VT_LANES == 16
constexpr int kTableBits = 5;
#elif VT_LANES == 8
constexpr int kTableBits = 3;
#else
constexpr int kTableBits = 0;
#endif

// Adding 1.5 * 2^(23 - bits) rounds to a multiple of 2^-bits, which then stands, as an integer, in the lowest bits.
constexpr float kRoundToTable = 1.5f * (float)(1 << (23 - kTableBits));

#if VT_LANES >= 8
// Entry j: the bits of 2^(j / 2^kTableBits), less what j itself adds when it is shifted to the exponent along with k.
alignas(kVectorBytes) constexpr int32_t kPowers[1 << kTableBits] = {
#if VT_LANES == 16
    0x3f800000, 0x3f7ecd87, 0x3f7daac3, 0x3f7c980f, 0x3f7b95c2, 0x3f7aa43a, 0x3f79c3d3, 0x3f78f4f0,
    0x3f7837f0, 0x3f778d3a, 0x3f76f532, 0x3f767043, 0x3f75fed7, 0x3f75a15b, 0x3f75583f, 0x3f7523f6,
    0x3f7504f3, 0x3f74fbaf, 0x3f7508a4, 0x3f752c4d, 0x3f75672a, 0x3f75b9be, 0x3f76248c, 0x3f76a81e,
    0x3f7744fd, 0x3f77fbb8, 0x3f78ccdf, 0x3f79b907, 0x3f7ac0c7, 0x3f7be4ba, 0x3f7d257d, 0x3f7e83b3,
#else
    0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7, 0x3f7504f3, 0x3f75672a, 0x3f7744fd, 0x3f7ac0c7,
#endif
};
#endif

// The table entry for the lowest bits of each lane.
VT_INLINE VecInt power_of(VecInt index) {
#if VT_LANES == 16
  const VecInt* table = (const VecInt*)kPowers;
  return (VecInt)_mm512_permutex2var_epi32((__m512i)table[0], (__m512i)index, (__m512i)table[1]);
#elif VT_LANES == 8
  return (VecInt)_mm256_permutevar8x32_epi32(*(const __m256i*)kPowers, (__m256i)index);
#else
  (void)index;
  return broadcast_int(0x3f800000);  // 1.0
#endif
}

// (2^f - 1) / f for f up to half a table step.
VT_INLINE Vec power_slope(Vec f) {
#if VT_LANES == 16
  return fma(f, broadcast(0.24022646f), broadcast(0.6931573f));
#elif VT_LANES == 8
  return fma(fma(f, broadcast(5.5489026e-2f), broadcast(0.24025752f)), f, broadcast(0.69314724f));
#else
  Vec p = fma(f, broadcast(1.3269521e-3f), broadcast(9.671291e-3f));
  p = fma(p, f, broadcast(5.550711e-2f));
  p = fma(p, f, broadcast(0.24022247f));
  return fma(p, f, broadcast(0.693147f));
#endif
}

// 2^t for kCount vectors at once, so that their chains of dependent operations overlap.
//
// Unless kClamp, |t| must not exceed kLargestExponent. With it, underflow gives exactly 0 (k = -127 empties the
// exponent field), overflow infinity, and NaN stays.
template <int kCount, bool kClamp>
VT_INLINE void exp2_in_place(Vec (&t)[kCount]) {
  Vec shifted[kCount], f[kCount], power[kCount];
  VT_UNROLL
  for (int i = 0; i < kCount; i++) {
    if (kClamp) t[i] = min(broadcast(128.0f), max(broadcast(-127.0f), t[i]));
    shifted[i] = t[i] + broadcast(kRoundToTable);
  }
  VT_UNROLL
  for (int i = 0; i < kCount; i++) f[i] = t[i] - (shifted[i] - broadcast(kRoundToTable));
  VT_UNROLL
  for (int i = 0; i < kCount; i++) {
    power[i] = (Vec)(power_of((VecInt)shifted[i]) + ((VecInt)shifted[i] << (23 - kTableBits)));
  }
  VT_UNROLL
  for (int i = 0; i < kCount; i++) {
    Vec result = fma(power[i] * f[i], power_slope(f[i]), power[i]);
    t[i] = kClamp ? select(t[i] >= broadcast(128.0f), broadcast(__builtin_inff()), result) : result;
  }
}

// The functions below take kCount vectors for the same reason: with one, the processor would mostly wait.

// exp(x), held within 2^-126 ... 2^126; NaN stays.
template <int kCount>
VT_INLINE void exp_in_place(Vec (&x)[kCount]) {
  const Vec limit = broadcast(kLargestExponent);
  VT_UNROLL
  for (int i = 0; i < kCount; i++) x[i] = min(limit, max(-limit, x[i] * broadcast(kLog2E)));
  exp2_in_place<kCount, false>(x);
}

template <int kCount>
VT_INLINE void sigmoid(const Vec (&x)[kCount], Vec (&result)[kCount]) {
  const Vec one = broadcast(1.0f);
  VT_UNROLL
  for (int i = 0; i < kCount; i++) result[i] = -x[i];
  exp_in_place(result);
  VT_UNROLL
  for (int i = 0; i < kCount; i++) result[i] = one / (one + result[i]);
}

// log(1 + exp(x)), without overflow and for large x equal to x, and its derivative, the sigmoid of x.
//
// With e = exp(-|x|): softplus(x) = max(x, 0) + log(1 + e), and log(1 + e) = 2 atanh(s), s = e / (2 + e) <= 1/3, by the
// series of atanh in s^2. sigmoid(|x|) = 1 / (1 + e). One division serves both quotients.
template <int kCount>
VT_INLINE void softplus_in_place(Vec (&x)[kCount], Vec (&slope)[kCount]) {
  const Vec zero{}, one = broadcast(1.0f), two = broadcast(2.0f);
  Vec e[kCount], inverse[kCount], s[kCount], p[kCount];
  VT_UNROLL
  for (int i = 0; i < kCount; i++) e[i] = -abs(x[i]);
  exp_in_place(e);
  VT_UNROLL
  for (int i = 0; i < kCount; i++) inverse[i] = one / ((one + e[i]) * (two + e[i]));
  VT_UNROLL
  for (int i = 0; i < kCount; i++) s[i] = e[i] * (one + e[i]) * inverse[i];
  VT_UNROLL
  for (int i = 0; i < kCount; i++) p[i] = fma(s[i] * s[i], broadcast(0.1818f), broadcast(0.22222f));
  VT_UNROLL
  for (int i = 0; i < kCount; i++) p[i] = fma(p[i], s[i] * s[i], broadcast(0.2857143f));
  VT_UNROLL
  for (int i = 0; i < kCount; i++) p[i] = fma(p[i], s[i] * s[i], broadcast(0.4f));
  VT_UNROLL
  for (int i = 0; i < kCount; i++) p[i] = fma(p[i], s[i] * s[i], broadcast(0.66666667f));
  VT_UNROLL
  for (int i = 0; i < kCount; i++) {
    Vec larger = (two + e[i]) * inverse[i];
    slope[i] = select(x[i] < zero, e[i] * larger, larger);
    x[i] = fma(s[i], fma(p[i], s[i] * s[i], two), max(zero, x[i]));
  }
}

}  // namespace VT_ISA
}  // namespace vt
