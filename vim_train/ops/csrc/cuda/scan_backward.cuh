// How the backward scan divides its work among threads and shared memory.
//
// A thread has four states of kChannels channels, so that kStates / 4 lanes of a warp, its *groups*, share channels.
// Work on elements rather than on states is divided otherwise. What the lanes of a channel have summed up belongs to
// one lane for each element: the channel is the lane's *own*, and kSharers lanes take turns at its steps. Rows of
// memory are read and written in *packs* of kPack adjacent channels. The two meet in shared memory, of which every warp
// has a part.
#pragma once

#include "element.cuh"
#include "scan_chunks.cuh"
#include "scan_schedule.cuh"

namespace vt {
namespace backward {

template <int kStates_, bool kLargeBatch>
struct Shape {
  static constexpr int kStates = kStates_;
  static constexpr int kChannels = kLargeBatch ? 2 : 1;  // of a thread
  static constexpr int kSteps = kLargeBatch || kStates_ <= 16 ? 4 : 8;  // of a *tile*, kept in registers
  static constexpr int kTiles = kWindow / kSteps;

  static constexpr int kGroups = kStates / 4;
  static constexpr int kWarpChannels = 32 / kGroups * kChannels;
  static constexpr int kSharers = 32 / kWarpChannels;
  static constexpr int kOwnSteps = kSteps / kSharers;

  // As many as shared memory holds; more warps leave fewer partial sums of dB and dC. So a large batch, which keeps a
  // GPU busy with one direction, has a launch for each.
  static constexpr int kWarps = !kLargeBatch ? 2 : kStates == 16 ? 6 : kStates == 8 ? 2 : 4;  // of a direction
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kDirections = kLargeBatch ? 1 : 2;  // of a block
  static constexpr int kBlockThreads = kDirections * kThreads;
  static constexpr int kBlockChannels = kWarps * kWarpChannels;
  // Of a multiprocessor: 12 leave each thread 168 registers, 8 leave it 255.
  static constexpr int kWarpsAtOnce = kStates == 16 || (kStates == 8 && !kLargeBatch) ? 12 : 8;
  static constexpr int kBlocksAtOnce = kWarpsAtOnce / (kDirections * kWarps);

  static constexpr int kStagedSteps = kLargeBatch && kStates == 16 ? 1 : 2;  // whose dB and dC are summed at once

  static constexpr int kPack = kWarpChannels < 8 ? 2 : 4;
  static constexpr int kPackRows = 32 / (kWarpChannels / kPack);  // that the lanes' packs come from
  static constexpr int kLanePacks = kWindow / kPackRows;

  static constexpr int kRow = 2 * kStates;  // B and C, or dB and dC, of one step
};

// Sums over the steps and channels that a block has; scan_backward_sums.cu adds them up.
struct Partials {
  float* rows;      // [channel block][direction][batch][position][dB, dC]
  float* channels;  // [chunk][batch][direction]: dA (E, N), dD (E), d delta_bias (E)
};

struct Params {
  vt_scan_backward_args args;
  ScanPlan plan;
  ChunkStates chunks;  // adjoint states
  Partials partials;
  int direction;     // a block's first
  bool packed;       // packs of all tensors (B, L, E) are aligned and whole
  bool packed_rows;  // so are fours of B and C
};

// Where a thread is in its block.
template <class S>
struct Place {
  int d, thread, warp, lane;  // of the direction, the warp
  int own, sharer, group;

  __device__ __forceinline__ explicit Place(int index) {
    d = S::kDirections == 1 ? 0 : index / S::kThreads;
    thread = S::kDirections == 1 ? index : index % S::kThreads;
    warp = thread / 32;
    lane = thread % 32;
    own = lane % S::kWarpChannels;
    sharer = lane / S::kWarpChannels;
    group = sharer * S::kChannels + lane % S::kChannels;
  }

  // The channels of a thread, in its warp: the first is its own. A lane and its neighbour have the same two in
  // different order, so that what they have for each other's own is always in the same variable.
  __device__ __forceinline__ int channel(int k) const { return own ^ k; }
  __device__ __forceinline__ int block_channel(int k) const { return warp * S::kWarpChannels + channel(k); }
};

// Computed anew wherever it is asked for: between windows this takes no registers.
template <class S>
__device__ __forceinline__ Place<S> place_of_thread() {
  return Place<S>(hidden((int)threadIdx.x));
}

}  // namespace backward
}  // namespace vt
