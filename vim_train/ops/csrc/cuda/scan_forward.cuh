// How the forward scan shares out its work, and what a thread does with the steps of one tile.
#pragma once

#include "math.cuh"
#include "scan_rows.cuh"

namespace vt {
namespace forward {

constexpr int kThreads = 64;  // of a block, for each direction

// kLanes neighbouring lanes of a warp share a channel. Each has kOwnStates of its states, and of a tile's kTile steps
// the kOwnSteps from lane * kOwnSteps on are its *own*: elementwise work is done for these alone.
template <int kStates_, bool kLargeBatch>
struct Shape {
  static constexpr int kStates = kStates_;
  static constexpr int kOwnStates = !kLargeBatch ? 4 : kStates < 16 ? kStates : 16;
  static constexpr int kLanes = kStates / kOwnStates;
  static constexpr int kChannels = kThreads / kLanes;
  static constexpr int kTile = kLargeBatch ? 4 : 8;
  static constexpr int kOwnSteps = kTile / kLanes;
  static constexpr bool kChunked = !kLargeBatch;
  static constexpr int kBlocksAtOnce = kStates <= 16 ? 4 : 2;  // on a multiprocessor: 128 or 255 registers a thread
  static constexpr int kRow = 2 * kStates;  // B and C of one step
  static constexpr int kStaged = kWindow * kRow;
};

// Of a value per step, of which every lane has its own: that of `step`.
template <int kLanes, int kOwn>
__device__ __forceinline__ float at_step(const float (&x)[kOwn], int step) {
  if constexpr (kLanes == 1) return x[step];
  return __shfl_sync(~0u, x[step % kOwn], step / kOwn, kLanes);
}

// Sums x[step] over the lanes of a channel and leaves each the sums of its own steps, at the front.
template <int kLanes, int kTile>
__device__ __forceinline__ void sum_own_steps(float (&x)[kTile], int lane) {
#pragma unroll
  for (int half = kTile / 2, mask = kLanes / 2; mask > 0; half /= 2, mask /= 2) {
    const bool upper = (lane & mask) != 0;
#pragma unroll
    for (int i = 0; i < half; i++) {
      const float keep = upper ? x[i + half] : x[i], give = upper ? x[i] : x[i + half];
      x[i] = keep + __shfl_xor_sync(~0u, give, mask);
    }
  }
}

// Takes a lane's states through a tile: state = exp2(delta rate) state + delta_u B, and adds what they give to y.
// A step's row is kStates of B, then of C; `rows` points to the lane's first state of B.
template <int kStates, int kLanes, int kFrom, int kTo, int kTile, int kOwnStates>
__device__ __forceinline__ void run_steps(float (&state)[kOwnStates], const float (&rate)[kOwnStates],
                                          const float (&delta)[kTile / kLanes], const float (&delta_u)[kTile / kLanes],
                                          const float* rows, float (&y)[kTile]) {
#pragma unroll
  for (int t = kFrom; t < kTo; t++) {
    const float delta_t = at_step<kLanes>(delta, t), delta_u_t = at_step<kLanes>(delta_u, t);
#pragma unroll
    for (int n = 0; n < kOwnStates; n += 4) {
      const float4 B4 = *(const float4*)(rows + 2 * kStates * t + n);
      const float4 C4 = *(const float4*)(rows + 2 * kStates * t + kStates + n);
      const float B[4] = {B4.x, B4.y, B4.z, B4.w}, C[4] = {C4.x, C4.y, C4.z, C4.w};
#pragma unroll
      for (int i = 0; i < 4; i++) {
        state[n + i] = fmaf(exp2_approx(delta_t * rate[n + i]), state[n + i], delta_u_t * B[i]);
        y[t] = fmaf(state[n + i], C[i], y[t]);
      }
    }
  }
}

}  // namespace forward
}  // namespace vt
