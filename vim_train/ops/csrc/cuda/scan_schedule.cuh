// How the scans divide their work.
//
// Positions are cut into *windows* of VT_CHECKPOINT_STEPS, the same ones for both directions. A direction visits
// windows, and the positions in them, in its scan order; the *checkpoint* of a window is its state on entering it.
//
// A block handles both directions of the same channels. In each *round*, between two barriers, they visit a window
// each; where one is reversed they walk towards each other. The direction that comes to a window second adds what the
// first left there and *finishes* its rows. So that they are never at the same window in the same round, direction 1
// starts a round late where the number of windows is odd or both walk the same way. (The backward scan of a large batch
// has a launch for each direction, and direction 1 finishes everything.)
//
// Where samples and channels are few, a channel has several lanes and positions are cut into *chunks* of whole windows,
// a block each, whose entering states come from an earlier pass. All this follows from the shapes alone.
#pragma once

#include <cuda_runtime.h>
#include <stdint.h>

#include "../include/abi.h"
#include "launch.cuh"
#include "math.cuh"

namespace vt {

constexpr int kWindow = VT_CHECKPOINT_STEPS;
constexpr int kMaxStates = 32;

// ---- plan ----------------------------------------------------------------------------------------------------------

// With so many (sample, channel, direction) triples, a thread for each keeps a GPU busy.
constexpr int64_t kLargeBatch = 49152;

// With fewer, a triple has about kSmallBatchLanes threads, and with less than kEnoughThreads of them positions are cut
// into chunks. Each chunk costs a second walk without outputs, so it is not made too short.
constexpr int64_t kSmallBatchLanes = 4;
constexpr int64_t kEnoughThreads = 32768;
constexpr int64_t kMinChunkWindows = 8;

struct ScanPlan {
  bool large_batch;
  int windows;        // of the sequence
  int chunks;         // it is cut into
  int chunk_windows;  // of each chunk, of the last perhaps fewer
  int rounds;         // that suffice for every chunk
  int64_t slab;       // floats in the states of all channels
};

// The kernels count windows, channels and the elements from one row to the next in 32 bits; all else in 64.
constexpr int64_t kMaxLength = (int64_t)kWindow * INT32_MAX;
constexpr int64_t kMaxChannels = INT32_MAX;
constexpr int64_t kMaxRowStride = INT32_MAX;

// By how many rounds direction 1 is late in a chunk.
__host__ __device__ __forceinline__ int lateness(const vt_scan_args& args, int chunk_windows) {
  if (args.directions == 1) return 0;
  const bool opposite = (args.dir[0].reverse != 0) != (args.dir[1].reverse != 0);
  return opposite ? chunk_windows % 2 : 1;
}

inline ScanPlan plan(const vt_scan_args& args) {
  const int64_t triples = args.batch * args.channels * args.directions, slab = args.channels * args.states;
  const bool large_batch = triples >= kLargeBatch;
  const int windows = (int)divide_up(args.length, kWindow);
  int chunks = 1;
  while (!large_batch && kSmallBatchLanes * triples * chunks < kEnoughThreads &&
         windows / chunks >= 2 * kMinChunkWindows) {
    chunks *= 2;
  }
  const int chunk_windows = (int)divide_up(windows, chunks);
  chunks = (int)divide_up(windows, chunk_windows);
  return {large_batch, windows, chunks, chunk_windows, chunk_windows + lateness(args, chunk_windows), slab};
}

// ---- windows -------------------------------------------------------------------------------------------------------

// The same value, but the compiler does not know that. So what is made of it in a loop is made there each time, not
// once before the loop and kept in registers.
__device__ __forceinline__ int hidden(int x) {
#ifdef __CUDA_ARCH__
  asm volatile("" : "+r"(x));
#endif
  return x;
}

// A direction's way through the windows of a chunk: in round r it makes visit r - delay, if there is such a one.
struct Walk {
  int first, count;  // windows first ... first + count - 1
  bool reverse;
  int delay;
  int finishes_from;  // the first visit in which it comes second

  __device__ __forceinline__ int window(int visit) const {
    return reverse ? first + (count - 1) - visit : first + visit;
  }
  // The position at which it begins, or would if the last window were as long as the others.
  __device__ __forceinline__ int64_t start() const {
    return (int64_t)first * kWindow + (reverse ? (int64_t)count * kWindow - 1 : 0);
  }
};

// Backwards: against the scan order, as adjoint states go.
__device__ __forceinline__ Walk walk_of(const vt_scan_args& args, const ScanPlan& plan, int chunk, int d,
                                        bool backwards) {
  const int first = chunk * plan.chunk_windows, left = plan.windows - first;
  const int count = left < plan.chunk_windows ? left : plan.chunk_windows;
  const bool reverse = (args.dir[d].reverse != 0) != backwards;
  if (args.directions == 1) return {first, count, reverse, 0, 0};

  const bool opposite = (args.dir[0].reverse != 0) != (args.dir[1].reverse != 0);
  const int late = lateness(args, count);
  const int finishes_from = !opposite ? (d == 0 ? count : 0) : (count + 1 + (d == 0 ? late : -late)) / 2;
  return {first, count, reverse, d == 0 ? 0 : late, finishes_from};
}

// Every window has kWindow *slots* in scan order. Where the last window is short, those that have no position come
// last, or first in a reversed direction: so slots go on evenly from window to window, and pointers to rows with them.
struct Slots {
  int count;  // of those with a position
  bool reverse;

  __device__ __forceinline__ bool all() const { return count == kWindow; }
  __device__ __forceinline__ bool has(int slot) const {
    return (unsigned)(slot - (reverse ? kWindow - count : 0)) < (unsigned)count;
  }
};

// A window outside the sequence has none.
__device__ __forceinline__ Slots slots_of(int64_t length, int window, bool reverse) {
  const int64_t left = window < 0 ? 0 : length - (int64_t)window * kWindow;
  return {hidden(left >= kWindow ? kWindow : left <= 0 ? 0 : (int)left), reverse};
}

// ---- states in memory ----------------------------------------------------------------------------------------------

// The states (E, N) of all channels at one place are a *slab* of E * N floats, [state / 4][channel][4], so that a
// warp's accesses are contiguous; where N is no multiple of 4 it is [state][channel]. Checkpoints are slabs
// [batch][window]. That of the first window in scan order, all zeros, is neither written nor read.
struct Slab {
  float* data;  // aligned to 16 bytes where N is a multiple of 4
  int channels, states;

  // Where a channel's states n ... n + 3 are (if N is a multiple of 4), or its state n.
  __device__ __forceinline__ float4* four_of(int64_t channel, int n) const {
    return (float4*)(data + channel * 4 + (int64_t)hidden(channels) * n);
  }
  __device__ __forceinline__ float* one_of(int64_t channel, int n) const {
    return data + channel + (int64_t)hidden(channels) * n;
  }

  // The slab as that channel's alone: it is channel 0 there.
  __device__ __forceinline__ float* one_channel(int64_t channel) const {
    return data + channel * (states % 4 == 0 ? 4 : 1);
  }

  // The states first ... first + kCount - 1 of a channel; those from `states` on are zero and have no place.
  template <int kCount>
  __device__ __forceinline__ void load(float (&state)[kCount], int64_t channel, int first) const {
    static_assert(kCount % 4 == 0, "states are handled in fours");
    if (states % 4 == 0) {
#pragma unroll
      for (int i = 0; i < kCount; i += 4) {
        float4 four = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (first + i < states) four = *four_of(channel, first + i);
        state[i] = four.x, state[i + 1] = four.y, state[i + 2] = four.z, state[i + 3] = four.w;
      }
    } else {
#pragma unroll
      for (int i = 0; i < kCount; i++) state[i] = first + i < states ? *one_of(channel, first + i) : 0.0f;
    }
  }

  template <int kCount>
  __device__ __forceinline__ void store(const float (&state)[kCount], int64_t channel, int first) const {
    static_assert(kCount % 4 == 0, "states are handled in fours");
    if (states % 4 == 0) {
#pragma unroll
      for (int i = 0; i < kCount; i += 4) {
        const float4 four = make_float4(state[i], state[i + 1], state[i + 2], state[i + 3]);
        if (first + i < states) *four_of(channel, first + i) = four;
      }
    } else {
#pragma unroll
      for (int i = 0; i < kCount; i++) {
        if (first + i < states) *one_of(channel, first + i) = state[i];
      }
    }
  }
};

__device__ __forceinline__ Slab checkpoint_of(const vt_scan_args& args, int d, int64_t batch, int window) {
  int64_t slab = batch * divide_up(args.length, kWindow) + window;
  return {args.dir[d].checkpoints + slab * args.channels * args.states, (int)args.channels, (int)args.states};
}

// A log2(e) of a channel, so that a decay is exp2(delta rate); zero for states that do not exist.
template <int kCount>
__device__ __forceinline__ void load_rates(float (&rate)[kCount], const vt_scan_args& args, int d, int64_t channel,
                                           int first) {
  const float* A = args.dir[d].A + channel * args.states;
#pragma unroll
  for (int i = 0; i < kCount; i++) rate[i] = first + i < args.states ? A[first + i] * kLog2E : 0.0f;
}

}  // namespace vt
