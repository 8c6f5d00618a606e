// Adjacent elements that one instruction reads or writes.
#pragma once

#include "element.cuh"

namespace vt {

template <int kBytes>
struct Word;
template <>
struct Word<2> {
  typedef unsigned short type;
};
template <>
struct Word<4> {
  typedef unsigned type;
};
template <>
struct Word<8> {
  typedef uint2 type;
};
template <>
struct Word<16> {
  typedef uint4 type;
};

// As read: elements are taken out where they are used, so that what only moves a pack does not wait for its load.
template <class T, int kSize>
struct Pack {
  typename Word<sizeof(T) * kSize>::type word;
};

// From memory that no thread of the launch writes: the compiler may move the load before any store.
template <int kSize, class T>
__device__ __forceinline__ Pack<T, kSize> load_constant(const T* from) {
  return {__ldg((const decltype(Pack<T, kSize>::word)*)from)};
}

template <class T, int kSize>
__device__ __forceinline__ void widen(float (&to)[kSize], const Pack<T, kSize>& from) {
  T elements[kSize];
  memcpy(elements, &from, sizeof elements);
#pragma unroll
  for (int c = 0; c < kSize; c++) to[c] = widen(elements[c]);
}

// One instruction an element, where taking it out first needs another.
template <int kSize>
__device__ __forceinline__ void widen(float (&to)[kSize], const Pack<bf16, kSize>& from) {
  uint32_t pairs[(kSize + 1) / 2] = {};
  memcpy(pairs, &from, sizeof from);
#pragma unroll
  for (int c = 0; c < kSize; c++) to[c] = __uint_as_float(c % 2 ? pairs[c / 2] & 0xffff0000u : pairs[c / 2] << 16);
}

template <class T, int kSize>
__device__ __forceinline__ void store(T* to, const float (&from)[kSize]) {
  T elements[kSize];
#pragma unroll
  for (int c = 0; c < kSize; c++) elements[c] = narrow<T>(from[c]);
  Pack<T, kSize> pack;
  memcpy(&pack, elements, sizeof pack);
  *(decltype(pack.word)*)to = pack.word;
}

// Whether packs of kSize elements at `data` and at multiples of the strides from it are aligned.
template <class T, int kSize>
bool packs_are_aligned(const void* data, int64_t stride_batch = 0, int64_t stride_len = 0) {
  return (uintptr_t)data % (sizeof(T) * kSize) == 0 && stride_batch % kSize == 0 && stride_len % kSize == 0;
}

template <class T, int kSize>
bool packs_are_aligned(const vt_tensor& tensor) {
  return packs_are_aligned<T, kSize>(tensor.data, tensor.stride_batch, tensor.stride_len);
}

}  // namespace vt
