#include "scan_chunks.cuh"

#include "math.cuh"

namespace vt {
namespace {

constexpr int kThreads = 128;

// A thread is one state of one channel, in the order of a slab.
__global__ void __launch_bounds__(kThreads)
    combine_kernel(const vt_scan_args args, const ScanPlan plan, const ChunkStates chunks, bool backwards) {
  const int64_t per_sample = args.channels * args.states, samples = args.directions * args.batch;
  int64_t index = (int64_t)blockIdx.x * kThreads + threadIdx.x;
  if (index >= samples * per_sample) return;

  const int64_t place = index % per_sample, sample = index / per_sample, batch = sample % args.batch;
  const int d = (int)(sample / args.batch);
  const int group = args.states % 4 == 0 ? 4 : 1;
  const int64_t channel = place / group % args.channels;
  const int64_t n = place / (group * args.channels) * group + place % group;
  const float rate = args.dir[d].A[channel * args.states + n] * kLog2E;
  const bool descending = (args.dir[d].reverse != 0) != backwards;

  float state = 0.0f;
  for (int i = 0; i < plan.chunks; i++) {
    const int chunk = descending ? plan.chunks - 1 - i : i;
    float* ends = chunks.slab(args, plan, d, chunk, batch).data + place;
    const float decay = exp2_approx(chunks.delta_sums(args, plan, d, chunk, batch)[channel] * rate);
    const float start = state;
    state = fmaf(decay, state, *ends);
    *ends = start;
  }
}

}  // namespace

int32_t combine_chunks(const vt_scan_args& args, const ScanPlan& plan, const ChunkStates& chunks, bool backwards) {
  int64_t threads = args.directions * args.batch * args.channels * args.states;
  return launch(args.runtime, combine_kernel, divide_up(threads, kThreads), kThreads, 0, args, plan, chunks, backwards);
}

}  // namespace vt
