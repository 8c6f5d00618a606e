// One vector of fp32 lanes and the operations the kernels need on it.
//
// Written with the vector extensions of GCC and Clang, so that the same source becomes SSE2, AVX2, AVX-512 or NEON code
// depending on the flags and on VT_LANES; intrinsics appear only where the compiler would not find the instruction.
//
// Every translation unit that includes this header (or one that includes it) names its instruction set in VT_ISA. All
// code lives in namespace vt::VT_ISA and uses nothing from the C++ standard library: an inline function with the same
// name compiled for two instruction sets would be merged by the linker, and old machines would run AVX code.
#pragma once

#include <stdint.h>
#include <string.h>

#if !defined(VT_ISA) || !defined(VT_LANES)
#error "define VT_ISA (a namespace name) and VT_LANES (floats in a vector) before including the kernels"
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define VT_INLINE static inline __attribute__((always_inline))
#define VT_NOINLINE static __attribute__((noinline))
#define VT_UNROLL _Pragma("GCC unroll 16")
#define VT_NO_UNROLL _Pragma("GCC unroll 1")

namespace vt {
namespace VT_ISA {

constexpr int kLanes = VT_LANES;
constexpr int kVectorBytes = kLanes * 4;

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr bool kManyRegisters = true;  // 32 vector registers instead of 16
#else
constexpr bool kManyRegisters = false;
#endif

typedef float Vec __attribute__((vector_size(kVectorBytes)));
typedef int32_t VecInt __attribute__((vector_size(kVectorBytes)));
typedef uint32_t VecUint __attribute__((vector_size(kVectorBytes)));
typedef uint16_t VecHalf __attribute__((vector_size(kLanes * 2)));  // bf16 or fp16 bits

typedef float VecUnaligned __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
typedef uint16_t VecHalfUnaligned __attribute__((vector_size(kLanes * 2), aligned(2), may_alias));

// Element types of inputs and outputs. Arithmetic is always fp32.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

VT_INLINE Vec broadcast(float x) { return x - Vec{}; }
VT_INLINE VecInt broadcast_int(int32_t x) { return x - VecInt{}; }
VT_INLINE VecUint broadcast_uint(uint32_t x) { return x - VecUint{}; }
VT_INLINE Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }  // one rounding where the machine has it

VT_INLINE VecUint bits_of(Vec x) { return (VecUint)x; }
VT_INLINE Vec from_bits(VecUint x) { return (Vec)x; }
VT_INLINE Vec select(VecInt mask, Vec if_true, Vec if_false) {
  return (Vec)(((VecInt)if_true & mask) | ((VecInt)if_false & ~mask));
}
VT_INLINE Vec abs(Vec x) { return from_bits(bits_of(x) & broadcast_uint(0x7fffffffu)); }

#if VT_LANES == 16
// GCC 12 warns of an uninitialised operand inside the plain AVX-512 intrinsics; a full mask makes the same code.
constexpr __mmask16 kAllLanes = 0xffff;
#endif

// The larger (smaller) of two; the second operand wins if either is NaN. Spelled out because a vector ?: becomes a
// compare and a blend instead of one instruction.
VT_INLINE Vec max(Vec a, Vec b) {
#if defined(__AVX512F__) && VT_LANES == 16
  return (Vec)_mm512_maskz_max_ps(kAllLanes, (__m512)a, (__m512)b);
#elif defined(__AVX__) && VT_LANES == 8
  return (Vec)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__) && VT_LANES == 4
  return (Vec)_mm_max_ps((__m128)a, (__m128)b);
#else
  return select(a > b, a, b);
#endif
}

VT_INLINE Vec min(Vec a, Vec b) {
#if defined(__AVX512F__) && VT_LANES == 16
  return (Vec)_mm512_maskz_min_ps(kAllLanes, (__m512)a, (__m512)b);
#elif defined(__AVX__) && VT_LANES == 8
  return (Vec)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__) && VT_LANES == 4
  return (Vec)_mm_min_ps((__m128)a, (__m128)b);
#else
  return select(a < b, a, b);
#endif
}

#if VT_LANES == 4
#define VT_EVEN_LANES 0, 2, 4, 6
#define VT_ODD_LANES 1, 3, 5, 7
#elif VT_LANES == 8
#define VT_EVEN_LANES 0, 2, 4, 6, 8, 10, 12, 14
#define VT_ODD_LANES 1, 3, 5, 7, 9, 11, 13, 15
#elif VT_LANES == 16
#define VT_EVEN_LANES 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define VT_ODD_LANES 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#endif

// Sums of neighbouring lanes: a's in the lower half of the result, b's in the upper.
VT_INLINE Vec add_neighbours(Vec a, Vec b) {
  return __builtin_shufflevector(a, b, VT_EVEN_LANES) + __builtin_shufflevector(a, b, VT_ODD_LANES);
}

// The lanes of kCount vectors added up: with kCount = kLanes, lane i of the result is the sum of vector i.
template <int kCount>
VT_INLINE Vec lane_sums(const Vec* x) {
  if constexpr (kCount == 1) {
    return x[0];
  } else {
    return add_neighbours(lane_sums<kCount / 2>(x), lane_sums<kCount / 2>(x + kCount / 2));
  }
}

VT_INLINE float horizontal_sum(Vec x) {
  VT_UNROLL
  for (int width = kLanes; width > 1; width /= 2) x = add_neighbours(x, x);
  return x[0];
}

VT_INLINE float horizontal_max(Vec x) {
  float largest = x[0];
  for (int i = 1; i < kLanes; i++) largest = largest > x[i] ? largest : x[i];
  return largest;
}

// ---- bf16 and fp16 -------------------------------------------------------------------------------------------------

VT_INLINE Vec widen(VecHalf h, BFloat16) { return from_bits(__builtin_convertvector(h, VecUint) << 16); }

VT_INLINE VecHalf narrow(Vec x, BFloat16) {
  VecUint bits = bits_of(x);
  VecUint rounded = bits + ((bits >> 16) & broadcast_uint(1)) + broadcast_uint(0x7fff);  // to nearest even
  VecUint quiet_nan = bits | broadcast_uint(0x400000);
  VecUint result = bits_of(select(x == x, from_bits(rounded), from_bits(quiet_nan)));
  return __builtin_convertvector(result >> 16, VecHalf);
}

#if defined(__AVX512F__) && VT_LANES == 16
VT_INLINE Vec widen(VecHalf h, Float16) { return (Vec)_mm512_maskz_cvtph_ps(kAllLanes, (__m256i)h); }
VT_INLINE VecHalf narrow(Vec x, Float16) {
  return (VecHalf)_mm512_maskz_cvtps_ph(kAllLanes, (__m512)x, _MM_FROUND_TO_NEAREST_INT);
}
#elif defined(__F16C__) && VT_LANES == 8
VT_INLINE Vec widen(VecHalf h, Float16) { return (Vec)_mm256_cvtph_ps((__m128i)h); }
VT_INLINE VecHalf narrow(Vec x, Float16) { return (VecHalf)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT); }
#elif defined(__aarch64__) && VT_LANES == 4
VT_INLINE Vec widen(VecHalf h, Float16) { return (Vec)vcvt_f32_f16((float16x4_t)h); }
VT_INLINE VecHalf narrow(Vec x, Float16) { return (VecHalf)vcvt_f16_f32((float32x4_t)x); }
#else
// The machine cannot convert: move the exponent field over and let a multiplication (or addition) normalise subnormals.
VT_INLINE Vec widen(VecHalf h, Float16) {
  VecUint bits = __builtin_convertvector(h, VecUint);
  VecUint sign = (bits & broadcast_uint(0x8000)) << 16;
  VecUint magnitude = (bits & broadcast_uint(0x7fff)) << 13;
  Vec scaled = from_bits(magnitude) * from_bits(broadcast_uint(239u << 23));  // times 2^(127 - 15)
  VecUint special = (VecUint)(magnitude >= broadcast_uint(0x7c00u << 13));    // infinity or NaN
  VecUint value = bits_of(scaled) | (special & broadcast_uint(0xffu << 23));
  return from_bits(value | sign);
}

VT_INLINE VecHalf narrow(Vec x, Float16) {
  VecUint bits = bits_of(x);
  VecUint sign = (bits >> 16) & broadcast_uint(0x8000);
  VecUint magnitude = bits & broadcast_uint(0x7fffffff);
  // Normal: rebias the exponent and round to nearest even. Overflow becomes infinity, NaN stays NaN.
  VecUint odd = (magnitude >> 13) & broadcast_uint(1);
  VecUint normal = (magnitude - broadcast_uint((127u - 15u) << 23) + broadcast_uint(0xfff) + odd) >> 13;
  VecUint too_large = (VecUint)(magnitude >= broadcast_uint(0x477ff000));  // rounds to 65536 or more
  VecUint is_nan = (VecUint)(magnitude > broadcast_uint(0x7f800000));
  VecUint infinity_or_nan = broadcast_uint(0x7c00) | (is_nan & broadcast_uint(0x200));
  // Subnormal: adding 1/2 puts the result's units in the last place of the sum, rounded by the adder.
  VecUint half_bits = broadcast_uint(126u << 23);
  VecUint subnormal = bits_of(from_bits(magnitude) + from_bits(half_bits)) - half_bits;
  VecUint is_small = (VecUint)(magnitude < broadcast_uint(113u << 23));
  VecUint result = (is_small & subnormal) | (~is_small & normal);
  result = (too_large & infinity_or_nan) | (~too_large & result);
  return __builtin_convertvector(result | sign, VecHalf);
}
#endif

// ---- memory --------------------------------------------------------------------------------------------------------

VT_INLINE Vec load(const float* p) { return *(const VecUnaligned*)p; }
VT_INLINE Vec load(const BFloat16* p) { return widen(*(const VecHalfUnaligned*)p, BFloat16{}); }
VT_INLINE Vec load(const Float16* p) { return widen(*(const VecHalfUnaligned*)p, Float16{}); }

VT_INLINE void store(float* p, Vec x) { *(VecUnaligned*)p = x; }
VT_INLINE void store(BFloat16* p, Vec x) { *(VecHalfUnaligned*)p = narrow(x, BFloat16{}); }
VT_INLINE void store(Float16* p, Vec x) { *(VecHalfUnaligned*)p = narrow(x, Float16{}); }

// The first `lanes` lanes only (none if it is not positive); the others read as zero and are not written.
template <class T>
VT_INLINE Vec load_partial(const T* p, int64_t lanes) {
  if (lanes >= kLanes) return load(p);
  T padded[kLanes] = {};
  for (int64_t i = 0; i < lanes; i++) padded[i] = p[i];
  return load(padded);
}

template <class T>
VT_INLINE void store_partial(T* p, Vec x, int64_t lanes) {
  if (lanes >= kLanes) return store(p, x);
  T padded[kLanes];
  store(padded, x);
  for (int64_t i = 0; i < lanes; i++) p[i] = padded[i];
}

// Whole vectors where the block of channels is full (kFull), partial ones at the edge.
template <bool kFull, class T>
VT_INLINE Vec load_lanes(const T* p, int64_t lanes) {
  return kFull ? load(p) : load_partial(p, lanes);
}

template <bool kFull, class T>
VT_INLINE void store_lanes(T* p, Vec x, int64_t lanes) {
  if (kFull) {
    store(p, x);
  } else {
    store_partial(p, x, lanes);
  }
}

// Converts a run of n values to fp32.
template <class T>
VT_INLINE void load_run(float* to, const T* from, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(to + i, load(from + i));
  if (i < n) store_partial(to + i, load_partial(from + i, n - i), n - i);
}

// to += from, over a run of n values.
VT_INLINE void add_run(float* to, const float* from, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(to + i, load(to + i) + load(from + i));
  for (; i < n; i++) to[i] += from[i];
}

}  // namespace VT_ISA
}  // namespace vt
