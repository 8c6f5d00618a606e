// Residual addition and RMSNorm: what its kernels share.
//
// A warp takes a row in slabs of kSteps packs a lane. All packs of a slab are loaded before the first is used; beyond
// the row's end they are zeros. kWhole: one slab holds the row, and stays in registers; else the row is read twice.
#pragma once

#include "launch.cuh"
#include "pack.cuh"

namespace vt {
namespace norm {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;

template <int kPackSize, int kStepCount, bool kIsWhole>
struct Slab {
  static constexpr int kPack = kPackSize, kSteps = kStepCount, kSize = 32 * kPack * kSteps;
  static constexpr bool kWhole = kIsWhole;

  template <class Body>
  __device__ __forceinline__ static void for_each(int64_t dim, const Body& body) {
    int64_t slab = 0;
    do {
      body(slab);
      slab += kSize;
    } while (!kWhole && slab < dim);
  }

  // Where the lane's pack of a step is.
  __device__ __forceinline__ static int64_t offset(int64_t slab, int step) {
    return slab + (step * 32 + (int)threadIdx.x % 32) * kPack;
  }

  __device__ __forceinline__ static bool has(int64_t slab, int step, int64_t dim) {
    return kWhole ? (int)offset(0, step) < (int)dim : offset(slab, step) < dim;
  }

  template <class T>
  __device__ __forceinline__ static void load(Pack<T, kPack> (&packs)[kSteps], const T* row, int64_t slab,
                                              int64_t dim) {
#pragma unroll
    for (int step = 0; step < kSteps; step++) {
      packs[step] = {};
      if (has(slab, step, dim)) packs[step] = load_constant<kPack>(row + offset(slab, step));
    }
  }
};

// The same bits on every lane.
__device__ __forceinline__ float sum_over_warp(float x) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(0xffffffffu, x, lanes);
  return x;
}

// Calls body with the Slab for rows of `dim`; `aligned`: packs of four are.
template <class Body>
int32_t with_slab(int64_t dim, bool aligned, const Body& body) {
  if (!aligned || dim % 4 != 0) return body(Slab<1, 4, false>{});
  if (dim <= Slab<4, 2, true>::kSize) return body(Slab<4, 2, true>{});
  if (dim <= Slab<4, 4, true>::kSize) return body(Slab<4, 4, true>{});
  if (dim <= Slab<4, 8, true>::kSize) return body(Slab<4, 8, true>{});
  return body(Slab<4, 4, false>{});
}

}  // namespace norm
}  // namespace vt
