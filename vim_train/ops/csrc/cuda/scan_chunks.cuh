// States that the chunks of a long sequence pass on. A first walk of every chunk, from zero, leaves the states it ends
// with and the sum of its time steps: the whole chunk decays a state by exp(A sum). combine_chunks() then goes through
// the chunks one after the other and leaves, in the same place, the states that each starts with.
#pragma once

#include "scan_schedule.cuh"

namespace vt {

struct ChunkStates {
  float* states;     // slabs [direction][chunk][batch]
  float* delta_sum;  // [direction][chunk][batch][channel]

  // Nothing where there is but one chunk.
  void place(Workspace& workspace, const vt_scan_args& args, const ScanPlan& plan) {
    if (plan.chunks == 1) return;
    int64_t channels = args.directions * (int64_t)plan.chunks * args.batch * args.channels;
    states = workspace.take<float>(channels * args.states);
    delta_sum = workspace.take<float>(channels);
  }

  __device__ __forceinline__ Slab slab(const vt_scan_args& args, const ScanPlan& plan, int d, int chunk,
                                       int64_t batch) const {
    int64_t before = (d * (int64_t)plan.chunks + chunk) * args.batch + batch;
    return {states + before * args.channels * args.states, (int)args.channels, (int)args.states};
  }

  __device__ __forceinline__ float* delta_sums(const vt_scan_args& args, const ScanPlan& plan, int d, int chunk,
                                               int64_t batch) const {
    return delta_sum + ((d * (int64_t)plan.chunks + chunk) * args.batch + batch) * args.channels;
  }
};

// Backwards: for adjoint states, which every direction passes on against its scan order.
int32_t combine_chunks(const vt_scan_args& args, const ScanPlan& plan, const ChunkStates& chunks, bool backwards);

}  // namespace vt
