// What a block of the backward scan keeps in shared memory, of each direction: what it works on, B and C of a window,
// and a part for every warp.
#pragma once

#include "scan_backward.cuh"

namespace vt {
namespace backward {

// What a block works on, of one direction. In registers this would take the place of states.
//
// Rows are found from that of slot 0 in the window to be read. When that moves on, the window worked on is kWindow
// slots ahead of it, for the walk goes against the scan order.
struct Task {
  enum Name { kDelta, kU, kDout, kZ, kDu, kDdelta, kDz, kB, kC, kRowSums, kCount };
  struct Rows {
    char* first;
    int64_t stride;  // bytes from slot to slot
  } rows[kCount];
  float* checkpoint;  // of the window to be read, at the block's first channel
  int64_t checkpoint_stride;
  int64_t batch, first_channel;
  int channels;  // that exist
  int chunk;
  Walk walk;
  int visits;  // that have begun

  // `column` is where the block's part of a row begins.
  __device__ __forceinline__ void set(Name name, const vt_tensor& tensor, int size, int64_t position, int sign,
                                      int64_t column) {
    const int64_t first = batch * tensor.stride_batch + position * tensor.stride_len + column;
    rows[name] = {(char*)tensor.data + first * size, sign * tensor.stride_len * size};
  }
  template <class T>
  __device__ __forceinline__ T* row(Name name, int slot, int column) const {
    T* at = (T*)(rows[name].first + (unsigned)slot * rows[name].stride) + column;
#ifdef __CUDA_ARCH__
    __builtin_assume(__isGlobal(at));
#endif
    return at;
  }
  __device__ __forceinline__ void move_on(int thread) {
    if (thread < kCount) rows[thread].first -= kWindow * rows[thread].stride;
    if (thread == kCount) checkpoint -= checkpoint_stride, visits++;
  }
};

// A warp's. Arrays over elements are [slot][channel].
template <class S>
struct WarpMemory {
  static constexpr int kElements = kWindow * S::kWarpChannels;

  // Staged values of kStagedSteps steps, dB and dC of every lane, with gaps that keep the lanes of sum_staged() in
  // separate banks.
  static constexpr int kGap = S::kChannels;
  static constexpr int kStagedHalf = (32 + kGap * (S::kSharers - 1) + 3) / 8 * 8 + 4;  // in float4
  static constexpr int kStaged = 2 * S::kStagedSteps * kStagedHalf * 4;

  // The sums of a slot take the place of its u and dy, if they fit.
  static constexpr bool kSumsApart = S::kRow > 2 * S::kWarpChannels;
  static constexpr int kSlotSums = kSumsApart ? S::kRow : 2 * S::kWarpChannels;  // from slot to slot
  static constexpr int kFloats = 6 * kElements + kStaged + (kSumsApart ? kWindow * kSlotSums : 0) + 3 * 32;

  float* base;

  __device__ __forceinline__ float2* delta_input() const { return (float2*)base; }  // delta, delta u; then du, ddelta
  __device__ __forceinline__ float2* u_dy() const { return (float2*)(base + 2 * kElements); }
  __device__ __forceinline__ float* slope() const { return base + 4 * kElements; }  // of softplus; then y
  __device__ __forceinline__ float* dz_of_y() const { return base + 5 * kElements; }  // dz / y
  __device__ __forceinline__ float4* staged() const { return (float4*)(base + 6 * kElements); }
  __device__ __forceinline__ float* D() const { return base + kFloats - 96; }  // of every lane's own channel
  __device__ __forceinline__ float2* dD_dbias() const { return (float2*)(base + kFloats - 64); }
  __device__ __forceinline__ float* sums(int slot) const {  // dB, dC
    return base + (kSumsApart ? 6 * kElements + kStaged : 2 * kElements) + slot * kSlotSums;
  }
};

template <class S>
struct BlockMemory {
  static constexpr int kTask = (sizeof(Task) + 15) / 16 * 4;
  static constexpr int kBC = kWindow * S::kRow;
  static constexpr int kDirection = kTask + kBC + S::kWarps * WarpMemory<S>::kFloats;
  static_assert(S::kDirections * kDirection * (int)sizeof(float) <= kMaxSharedBytes, "shared memory");

  static int bytes(int directions) { return directions * kDirection * (int)sizeof(float); }

  float* base;  // of a direction

  __device__ __forceinline__ Task& task() const { return *(Task*)base; }
  __device__ __forceinline__ float* bc() const { return base + kTask; }  // [slot][B, C]
  __device__ __forceinline__ WarpMemory<S> warp(int warp) const {
    return {base + kTask + kBC + warp * WarpMemory<S>::kFloats};
  }
};

// Sets a block to work. One thread calls this.
template <class T, class S>
__device__ __forceinline__ void describe(Task& task, const Params& params, int d) {
  const vt_scan_args& forward = params.args.forward;
  const vt_direction& dir = forward.dir[d];
  const vt_direction_grads& grads = params.args.grads[d];
  const int64_t channel_blocks = divide_up(forward.channels, S::kBlockChannels);
  const int64_t channel_block = blockIdx.x % channel_blocks, rest = blockIdx.x / channel_blocks;
  const int64_t channel = channel_block * S::kBlockChannels, left = forward.channels - channel;
  task.batch = rest / params.plan.chunks;
  task.chunk = (int)(rest % params.plan.chunks);
  task.first_channel = channel;
  task.channels = left < S::kBlockChannels ? (int)left : S::kBlockChannels;

  task.walk = walk_of(forward, params.plan, task.chunk, d, true);
  task.visits = 0;
  const int window = task.walk.window(0), sign = dir.reverse ? -1 : 1;
  const int64_t position = (int64_t)window * kWindow + (dir.reverse ? kWindow - 1 : 0);
  const auto set = [&](Task::Name name, const vt_tensor& tensor, int64_t column) {
    task.set(name, tensor, sizeof(T), position, sign, column);
  };
  set(Task::kDelta, dir.delta, channel);
  set(Task::kU, dir.u, channel);
  set(Task::kDout, params.args.dout, channel);
  set(Task::kZ, forward.z, channel);
  set(Task::kDu, grads.du, channel);
  set(Task::kDdelta, grads.ddelta, channel);
  set(Task::kDz, params.args.dz, channel);
  set(Task::kB, dir.B, 0);
  set(Task::kC, dir.C, 0);
  const int64_t sample = (channel_block * forward.directions + d) * forward.batch;
  float* const sums = params.partials.rows + sample * forward.length * S::kRow;
  const vt_tensor row_sums = {sums, forward.length * S::kRow, S::kRow};
  task.set(Task::kRowSums, row_sums, sizeof(float), position, sign, 0);

  task.checkpoint = checkpoint_of(forward, d, task.batch, window).one_channel(channel);
  task.checkpoint_stride = sign * forward.channels * forward.states;
}

}  // namespace backward
}  // namespace vt
