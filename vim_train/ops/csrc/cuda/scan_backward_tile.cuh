// What a warp of the backward scan does with the states of a tile.
//
// With a_t = exp(delta_t A), s_t = a_t s_{t-1} + delta_t B_t u_t, y_t = C_t . s_t + D u_t, and g_t the gradient of s_t,
// for each channel and state:
//   g_t = a_{t+1} g_{t+1} + C_t dy_t
//   dC_t = sum over channels of s_t dy_t           dB_t = sum over channels of g_t delta_t u_t
//   d(delta_t u_t) = sum over states of g_t B_t    d(delta_t) += sum over states of g_t a_t s_{t-1} A
//   dA = sum over steps of g_t a_t s_{t-1} delta_t
#pragma once

#include "math.cuh"
#include "scan_backward_memory.cuh"

namespace vt {
namespace backward {

template <class S>
struct States {
  float of[S::kChannels][4];
};

// Adjacent floats of shared memory, in as few instructions as their count allows.
template <int kCount>
__device__ __forceinline__ void load_floats(float (&x)[kCount], const float* from) {
  constexpr int kSize = kCount % 4 == 0 ? 4 : kCount % 2 == 0 ? 2 : 1;
#pragma unroll
  for (int i = 0; i < kCount; i += kSize) {
    if constexpr (kSize == 4) {
      const float4 four = *(const float4*)(from + i);
      x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
    } else if constexpr (kSize == 2) {
      const float2 two = *(const float2*)(from + i);
      x[i] = two.x, x[i + 1] = two.y;
    } else {
      x[i] = from[i];
    }
  }
}

template <int kCount>
__device__ __forceinline__ void store_floats(float* to, const float (&x)[kCount]) {
  constexpr int kSize = kCount % 4 == 0 ? 4 : kCount % 2 == 0 ? 2 : 1;
#pragma unroll
  for (int i = 0; i < kCount; i += kSize) {
    if constexpr (kSize == 4) {
      *(float4*)(to + i) = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
    } else if constexpr (kSize == 2) {
      *(float2*)(to + i) = make_float2(x[i], x[i + 1]);
    } else {
      to[i] = x[i];
    }
  }
}

// ---- sums over lanes -----------------------------------------------------------------------------------------------

// The sum over lanes for the lane's own channel, in all lanes that share it.
template <class S>
__device__ __forceinline__ float sum_groups_pairwise(const float (&x)[S::kChannels]) {
  if constexpr (S::kChannels == 1) return x[0];
  return x[0] + __shfl_xor_sync(~0u, x[S::kChannels - 1], 1);
}

// The sum over the sharers of x[own turn].
template <class S>
__device__ __forceinline__ float sum_sharers(float (&x)[S::kSharers], int sharer) {
#pragma unroll
  for (int half = S::kSharers / 2; half > 0; half /= 2) {
    const bool upper = (sharer & half) != 0;
#pragma unroll
    for (int i = 0; i < half; i++) {
      const float keep = upper ? x[i + half] : x[i], give = upper ? x[i] : x[i + half];
      x[i] = keep + __shfl_xor_sync(~0u, give, half * S::kWarpChannels);
    }
  }
  return x[0];
}

// A lane's part of the sums over lanes of dB and dC of the staged steps: adjacent columns.
template <class S>
struct RowSums {
  static constexpr int kCount = S::kStagedSteps * S::kRow / 32;
  float of[kCount];
};

template <class S>
__device__ __forceinline__ void stage(const WarpMemory<S>& memory, const Place<S>& place, int step,
                                      const float (&dB)[4], const float (&dC)[4]) {
  float4* to = memory.staged() + step * 2 * memory.kStagedHalf + place.lane + place.sharer * memory.kGap;
  store_floats((float*)to, dB);
  store_floats((float*)(to + memory.kStagedHalf), dC);
}

template <class S>
__device__ __forceinline__ void sum_staged(RowSums<S>& sums, const WarpMemory<S>& memory, const Place<S>& place) {
  const int first = place.lane * RowSums<S>::kCount, step = first / S::kRow, column = first % S::kRow;
  const int half = column / S::kStates, group = column % S::kStates / 4;
  const int lane = group / S::kChannels * (S::kWarpChannels + memory.kGap) + group % S::kChannels;
  const float* from = (const float*)(memory.staged() + (step * 2 + half) * memory.kStagedHalf + lane) + column % 4;
#pragma unroll
  for (int channel = 0; channel < S::kWarpChannels; channel += S::kChannels) {
    float x[RowSums<S>::kCount];
    load_floats(x, from + channel * 4);
#pragma unroll
    for (int i = 0; i < RowSums<S>::kCount; i++) sums.of[i] = channel == 0 ? x[i] : sums.of[i] + x[i];
  }
}

// ---- recurrences ---------------------------------------------------------------------------------------------------

// What the states need to know of a window.
template <class S>
struct Inputs {
  const Place<S>& place;
  const WarpMemory<S>& memory;
  const float* bc;

  __device__ __forceinline__ void B(float (&x)[4], int slot) const {
    load_floats(x, bc + slot * S::kRow + place.group * 4);
  }
  __device__ __forceinline__ void C(float (&x)[4], int slot) const {
    load_floats(x, bc + slot * S::kRow + S::kStates + place.group * 4);
  }
  __device__ __forceinline__ float2 delta_input(int slot, int k) const {
    return memory.delta_input()[slot * S::kWarpChannels + place.channel(k)];
  }
  __device__ __forceinline__ float dy(int slot, int k) const {
    return memory.u_dy()[slot * S::kWarpChannels + place.channel(k)].y;
  }
};

// Takes states over a slot, and gives their decays.
template <class S>
__device__ __forceinline__ void advance(States<S>& state, States<S>& decay, const States<S>& rate,
                                        const Inputs<S>& inputs, int slot) {
  float B[4];
  inputs.B(B, slot);
#pragma unroll
  for (int k = 0; k < S::kChannels; k++) {
    const float2 delta_input = inputs.delta_input(slot, k);
#pragma unroll
    for (int n = 0; n < 4; n++) {
      decay.of[k][n] = exp2_approx(delta_input.x * rate.of[k][n]);
      state.of[k][n] = fmaf(decay.of[k][n], state.of[k][n], delta_input.y * B[n]);
    }
  }
}

// A tile's states: before its first step, and after each.
template <class S>
struct History {
  States<S> state[S::kSteps + 1], decay[S::kSteps];

  __device__ __forceinline__ void recompute(const States<S>& start, const States<S>& rate, const Inputs<S>& inputs,
                                            int first) {
    state[0] = start;
#pragma unroll
    for (int t = 0; t < S::kSteps; t++) {
      state[t + 1] = state[t];
      advance<S>(state[t + 1], decay[t], rate, inputs, first + t);
    }
  }
};

// What the reverse walk hands from step to step.
template <class S>
struct Adjoint {
  States<S> dstate, dA;
};

// Sums over states, of each step: y without its skip, the gradient of delta u, and that of delta's exponent / ln 2.
template <int kCount>
struct StateSums {
  float y[kCount], dinput[kCount], dexponent[kCount];
};

template <class S>
__device__ __forceinline__ void reverse_step(StateSums<S::kChannels>& sums, float (&dB)[4], float (&dC)[4],
                                             Adjoint<S>& adjoint, const History<S>& history, const States<S>& rate,
                                             const Inputs<S>& inputs, int slot, int t) {
  float B[4], C[4];
  inputs.B(B, slot);
  inputs.C(C, slot);
#pragma unroll
  for (int k = 0; k < S::kChannels; k++) {
    const float2 delta_input = inputs.delta_input(slot, k);
    const float dy = inputs.dy(slot, k);
#pragma unroll
    for (int n = 0; n < 4; n++) {
      const float state = history.state[t + 1].of[k][n], g = fmaf(dy, C[n], adjoint.dstate.of[k][n]);
      const float carry = g * history.decay[t].of[k][n], dexponent = carry * history.state[t].of[k][n];
      adjoint.dstate.of[k][n] = carry;
      adjoint.dA.of[k][n] = fmaf(dexponent, delta_input.x, adjoint.dA.of[k][n]);
      dC[n] = fmaf(state, dy, dC[n]);
      dB[n] = fmaf(g, delta_input.y, dB[n]);
      sums.y[k] = fmaf(state, C[n], sums.y[k]);
      sums.dinput[k] = fmaf(g, B[n], sums.dinput[k]);
      sums.dexponent[k] = fmaf(dexponent, rate.of[k][n], sums.dexponent[k]);
    }
  }
}

// Walks back through a tile. Where a lane has the sums of an element of its own it calls finish(sums, first slot of
// those that the lanes share). The sums over lanes follow, where the elements' inputs were.
template <class S, class Finish>
__device__ __forceinline__ void reverse(Adjoint<S>& adjoint, const History<S>& history, const States<S>& rate,
                                        const Inputs<S>& inputs, int tile, const Finish& finish) {
  constexpr int kStaged = S::kStagedSteps, kRows = divide_up(S::kSharers, kStaged);
  RowSums<S> rows[kRows];
#pragma unroll
  for (int i = S::kOwnSteps - 1; i >= 0; i--) {
    StateSums<S::kSharers> turns;
#pragma unroll
    for (int turn = S::kSharers - 1; turn >= 0; turn--) {
      const int t = i * S::kSharers + turn;
      StateSums<S::kChannels> sums = {};
      float dB[4] = {}, dC[4] = {};
      reverse_step<S>(sums, dB, dC, adjoint, history, rate, inputs, tile * S::kSteps + t, t);
      turns.y[turn] = sum_groups_pairwise<S>(sums.y);
      turns.dinput[turn] = sum_groups_pairwise<S>(sums.dinput);
      turns.dexponent[turn] = sum_groups_pairwise<S>(sums.dexponent);
      stage(inputs.memory, inputs.place, t % kStaged, dB, dC);
      if (t % kStaged == 0) {
        __syncwarp();
        sum_staged(rows[turn / kStaged], inputs.memory, inputs.place);
        __syncwarp();
      }
    }
    StateSums<1> own;
    own.y[0] = sum_sharers<S>(turns.y, inputs.place.sharer);
    own.dinput[0] = sum_sharers<S>(turns.dinput, inputs.place.sharer);
    own.dexponent[0] = sum_sharers<S>(turns.dexponent, inputs.place.sharer);
    if constexpr (S::kSharers < kStaged) __syncwarp();  // others have read what goes
    finish(own, tile * S::kSteps + i * S::kSharers);
    if (i * S::kSharers % kStaged == 0) {
      __syncwarp();
#pragma unroll
      for (int r = 0; r < kRows; r++) {
        const int first = place_of_thread<S>().lane * RowSums<S>::kCount;
        float* const to = inputs.memory.sums(tile * S::kSteps + i * S::kSharers + r * kStaged);
        store_floats(to + first + first / S::kRow * (inputs.memory.kSlotSums - S::kRow), rows[r].of);
      }
    }
  }
}

}  // namespace backward
}  // namespace vt
