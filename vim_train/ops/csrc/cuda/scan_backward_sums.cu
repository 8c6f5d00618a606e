#include "scan_backward_sums.cuh"

#include "sum.cuh"

namespace vt {
namespace backward {
namespace {

constexpr int kThreads = 256;

// A thread has four columns of a row.
__global__ void __launch_bounds__(kThreads)
    sum_rows_of_blocks_kernel(const Params params, int64_t channel_blocks, int padded_states) {
  const vt_scan_args& forward = params.args.forward;
  const int fours = 2 * padded_states / 4;
  const int64_t rows = forward.directions * forward.batch * forward.length;
  const int64_t index = (int64_t)blockIdx.x * kThreads + threadIdx.x;
  if (index >= rows * fours) return;

  float sum[4] = {};
#pragma unroll 8
  for (int64_t block = 0; block < channel_blocks; block++) {
    const float4 x = __ldg((const float4*)params.partials.rows + block * rows * fours + index);
    sum[0] += x.x, sum[1] += x.y, sum[2] += x.z, sum[3] += x.w;
  }

  const int column = (int)(index % fours) * 4, n = column % padded_states;
  const int64_t row = index / fours, sample = row / forward.length;
  const vt_direction_grads& grads = params.args.grads[sample / forward.batch];
  float* to = row_of<float>(column < padded_states ? grads.dB : grads.dC, sample % forward.batch, row % forward.length);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if (n + i < forward.states) to[n + i] = sum[i];
  }
}

// Columns are [direction]: dA (E, N), dD (E), d delta_bias (E).
struct StoreChannelSums {
  vt_direction_grads grads[2];
  int64_t channels, states;

  __device__ void operator()(int64_t column, float sum) const {
    const int64_t of_A = channels * states, columns = of_A + 2 * channels, place = column % columns;
    const vt_direction_grads& to = grads[column / columns];
    if (place < of_A) {
      to.dA[place] = sum;
    } else if (place < of_A + channels) {
      if (to.dD) to.dD[place - of_A] = sum;
    } else if (to.ddelta_bias) {
      to.ddelta_bias[place - of_A - channels] = sum;
    }
  }
};

}  // namespace

int32_t sum_row_partials(const Params& params, int64_t channel_blocks, int padded_states) {
  const vt_scan_args& forward = params.args.forward;
  const int64_t threads = forward.directions * forward.batch * forward.length * (2 * padded_states / 4);
  return launch(forward.runtime, sum_rows_of_blocks_kernel, divide_up(threads, kThreads), kThreads, 0, params,
                channel_blocks, padded_states);
}

int32_t sum_channel_partials(const Params& params) {
  const vt_scan_args& forward = params.args.forward;
  const StoreChannelSums store = {{params.args.grads[0], params.args.grads[1]}, forward.channels, forward.states};
  const int64_t rows = params.plan.chunks * forward.batch;
  const int64_t columns = forward.directions * forward.channels * (forward.states + 2);
  return sum_rows(forward.runtime, params.partials.channels, rows, columns, store);
}

}  // namespace backward
}  // namespace vt
