// Selective scan, backward: the gradients of one or two directions, with a pass over the rows for each.
//
// A direction goes through its windows, and through each, against its scan order. A window's states come again from its
// checkpoint: those before each of its tiles in a first run, then tile by tile those of every step.
#include "scan_backward_rows.cuh"

#include "kernels.cuh"
#include "scan_backward_sums.cuh"

namespace vt {
namespace {

using namespace backward;

// What a thread keeps from window to window in registers. What belongs to its own channel is in shared memory.
template <class S>
struct Thread {
  States<S> rate;
  Adjoint<S> adjoint;

  __device__ __forceinline__ Thread(const Params& params, const Task& task, const Place<S>& place,
                                    const WarpMemory<S>& memory) {
    const vt_scan_args& forward = params.args.forward;
    const int d = params.direction + place.d;
    memory.D()[place.lane] = 0.0f;
    memory.dD_dbias()[place.lane] = make_float2(0.0f, 0.0f);
#pragma unroll
    for (int k = 0; k < S::kChannels; k++) {
      const int64_t channel = task.first_channel + place.block_channel(k);
#pragma unroll
      for (int n = 0; n < 4; n++) rate.of[k][n] = adjoint.dstate.of[k][n] = adjoint.dA.of[k][n] = 0.0f;
      if (channel >= forward.channels) continue;
      load_rates(rate.of[k], forward, d, channel, place.group * 4);
      if (k == 0 && forward.dir[d].D) memory.D()[place.lane] = forward.dir[d].D[channel];
      if (params.plan.chunks > 1) {
        params.chunks.slab(forward, params.plan, d, task.chunk, task.batch)
            .load(adjoint.dstate.of[k], channel, place.group * 4);
      }
    }
  }
};

// The states on entering a window; zero where it is the first.
template <class S>
__device__ __forceinline__ void load_start(States<S>& start, const Visit<S>& visit) {
  const bool first = visit.window == (visit.task().walk.reverse ? 0 : visit.params.plan.windows - 1);
  const vt_scan_args& forward = visit.forward();
  const Place<S> place = place_of_thread<S>();
  const Slab checkpoint = {visit.task().checkpoint, (int)forward.channels, (int)forward.states};
#pragma unroll
  for (int k = 0; k < S::kChannels; k++) {
#pragma unroll
    for (int n = 0; n < 4; n++) start.of[k][n] = 0.0f;
    const int channel = place.block_channel(k);
    if (!first && channel < visit.task().channels) checkpoint.load(start.of[k], channel, place.group * 4);
  }
}

// What a lane makes of the sums of its element, of those that a warp has in the slots from `first` on.
template <class S>
__device__ __forceinline__ void finish_element(const StateSums<1>& sums, const Inputs<S>& inputs, int first) {
  const WarpMemory<S>& memory = inputs.memory;
  const int element = first * S::kWarpChannels + inputs.place.lane;
  const float2 u_dy = memory.u_dy()[element];
  const float D = memory.D()[inputs.place.lane];
  const float delta = memory.delta_input()[element].x;
  const float ddelta = fmaf(sums.dinput[0], u_dy.x, sums.dexponent[0] * kLn2) * memory.slope()[element];
  memory.delta_input()[element] = make_float2(fmaf(sums.dinput[0], delta, u_dy.y * D), ddelta);
  memory.slope()[element] = fmaf(D, u_dy.x, sums.y[0]);
  float2 sum = memory.dD_dbias()[inputs.place.lane];
  sum.x = fmaf(u_dy.y, u_dy.x, sum.x);
  sum.y += ddelta;
  memory.dD_dbias()[inputs.place.lane] = sum;
}

template <class S>
__device__ __forceinline__ void run_tile(Thread<S>& thread, const States<S>& start, const Inputs<S>& inputs, int tile) {
  History<S> history;
  history.recompute(start, thread.rate, inputs, tile * S::kSteps);
  reverse<S>(thread.adjoint, history, thread.rate, inputs, tile,
             [&](const StateSums<1>& sums, int first) { finish_element(sums, inputs, first); });
}

// Recomputes the states before each tile, then runs the tiles from the last to the first.
template <class S>
__device__ __forceinline__ void run_window(Thread<S>& thread, States<S> (&start)[S::kTiles], const Inputs<S>& inputs) {
#pragma unroll
  for (int tile = 1; tile < S::kTiles; tile++) {
    States<S> decay;
    start[tile] = start[tile - 1];
#pragma unroll
    for (int t = 0; t < S::kSteps; t++) {
      advance<S>(start[tile], decay, thread.rate, inputs, (tile - 1) * S::kSteps + t);
    }
  }
  // Code for all tiles would not fit in the instruction cache; but to move states down each time takes instructions.
  constexpr int kAtOnce = S::kTiles / 2;
#pragma unroll 1
  for (int last = S::kTiles - 1; last >= 0; last -= kAtOnce) {
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) run_tile(thread, start[S::kTiles - 1 - i], inputs, last - i);
#pragma unroll
    for (int tile = S::kTiles - 1; tile >= kAtOnce; tile--) start[tile] = start[tile - kAtOnce];
  }
}

template <class S>
__device__ __forceinline__ void write_channel_sums(const Thread<S>& thread, const WarpMemory<S>& memory,
                                                   const Params& params, const Task& task) {
  const Place<S> place = place_of_thread<S>();
  const vt_scan_args& forward = params.args.forward;
  const int64_t row = (task.chunk * forward.batch + task.batch) * forward.directions + params.direction + place.d;
  float* dA = params.partials.channels + row * forward.channels * (forward.states + 2);
  float* dD = dA + forward.channels * forward.states;
  float* dbias = dD + forward.channels;
  float2 sum = memory.dD_dbias()[place.lane];
#pragma unroll
  for (int mask = S::kWarpChannels; mask < 32; mask *= 2) {
    sum.x += __shfl_xor_sync(~0u, sum.x, mask);
    sum.y += __shfl_xor_sync(~0u, sum.y, mask);
  }
#pragma unroll
  for (int k = 0; k < S::kChannels; k++) {
    const int64_t channel = task.first_channel + place.block_channel(k);
    if (channel >= forward.channels) continue;
#pragma unroll
    for (int n = 0; n < 4; n++) {
      const int state = place.group * 4 + n;
      if (state < forward.states) dA[channel * forward.states + state] = thread.adjoint.dA.of[k][n];
    }
    if (k == 0 && place.sharer == 0) dD[channel] = sum.x, dbias[channel] = sum.y;
  }
}

template <class T, int kStates, bool kLargeBatch>
__global__ void __launch_bounds__(Shape<kStates, kLargeBatch>::kBlockThreads,
                                  Shape<kStates, kLargeBatch>::kBlocksAtOnce)
    scan_backward_kernel(const Params params) {
  using S = Shape<kStates, kLargeBatch>;
  extern __shared__ __align__(16) unsigned char shared[];
  const Place<S> place = place_of_thread<S>();
  const BlockMemory<S> block = {(float*)shared + place.d * BlockMemory<S>::kDirection};
  const Task& task = block.task();
  if (place.thread == 0) describe<T, S>(block.task(), params, params.direction + place.d);
  __syncthreads();

  const WarpMemory<S> memory = block.warp(place.warp);
  const Inputs<S> inputs = {place, memory, block.bc()};
  Thread<S> thread(params, task, place, memory);

#pragma unroll 1
  while (task.visits < task.walk.count) {
    States<S> start[S::kTiles];
    {
      const Visit<S> visit(params, block, task.visits);
      stage_bc<T>(visit);
      load_start(start[0], visit);
      read_window<T>(visit);
    }
    block.task().move_on(place_of_thread<S>().thread);
    run_window(thread, start, inputs);
    __syncthreads();

    const Visit<S> visit(params, block, task.visits - 1);
    write_window<T>(visit);
    write_row_sums(visit);
  }
  write_channel_sums(thread, memory, params, task);
}

// The adjoint states of every chunk, from zero, for combine_chunks().
template <class T, int kStates>
__global__ void __launch_bounds__(Shape<kStates, false>::kBlockThreads) adjoint_kernel(const Params params) {
  using S = Shape<kStates, false>;
  extern __shared__ __align__(16) unsigned char shared[];
  const vt_scan_args& forward = params.args.forward;
  const Place<S> place = place_of_thread<S>();
  const BlockMemory<S> block = {(float*)shared + place.d * BlockMemory<S>::kDirection};
  const Task& task = block.task();
  if (place.thread == 0) describe<T, S>(block.task(), params, place.d);
  __syncthreads();

  const WarpMemory<S> memory = block.warp(place.warp);
  const Inputs<S> inputs = {place, memory, block.bc()};
  float rate[4] = {}, dstate[4] = {}, delta_sum = 0.0f;
  if (place.block_channel(0) < task.channels) {
    load_rates(rate, forward, place.d, task.first_channel + place.block_channel(0), place.group * 4);
  }

#pragma unroll 1
  while (task.visits < task.walk.count) {
    const Visit<S> visit(params, block, task.visits);
    stage_bc<T>(visit);
    read_window<T>(visit);
    block.task().move_on(place.thread);
#pragma unroll 4
    for (int slot = kWindow - 1; slot >= 0; slot--) {
      float C[4];
      inputs.C(C, slot);
      const float delta = inputs.delta_input(slot, 0).x, dy = inputs.dy(slot, 0);
      delta_sum += delta;
#pragma unroll
      for (int n = 0; n < 4; n++) dstate[n] = exp2_approx(delta * rate[n]) * fmaf(dy, C[n], dstate[n]);
    }
    __syncthreads();
  }

  if (place.block_channel(0) >= task.channels) return;
  const int64_t channel = task.first_channel + place.block_channel(0);
  params.chunks.slab(forward, params.plan, place.d, task.chunk, task.batch).store(dstate, channel, place.group * 4);
  if (place.group == 0) {
    params.chunks.delta_sums(forward, params.plan, place.d, task.chunk, task.batch)[channel] = delta_sum;
  }
}

template <class Body>
int32_t with_shape(int64_t states, bool large_batch, const Body& body) {
  if (states <= 8) return large_batch ? body(Shape<8, true>{}) : body(Shape<8, false>{});
  if (states <= 16) return large_batch ? body(Shape<16, true>{}) : body(Shape<16, false>{});
  return large_batch ? body(Shape<32, true>{}) : body(Shape<32, false>{});
}

void place_partials(Workspace& workspace, Params& params) {
  const vt_scan_args& forward = params.args.forward;
  params.chunks.place(workspace, forward, params.plan);
  with_shape(forward.states, params.plan.large_batch, [&](auto shape) {
    using S = decltype(shape);
    const int64_t blocks = divide_up(forward.channels, S::kBlockChannels);
    const int64_t rows = forward.directions * forward.batch * forward.length;
    params.partials.rows = workspace.take<float>(blocks * rows * S::kRow);
    return 0;
  });
  const int64_t samples = params.plan.chunks * forward.batch * forward.directions;
  params.partials.channels = workspace.take<float>(samples * forward.channels * (forward.states + 2));
}

template <class T>
bool packed(const vt_scan_backward_args& args) {
  const vt_scan_args& forward = args.forward;
  bool yes = forward.channels % 4 == 0 && packs_are_aligned<T, 4>(forward.z) && packs_are_aligned<T, 4>(args.dout) &&
             packs_are_aligned<T, 4>(args.dz);
  for (int d = 0; d < forward.directions; d++) {
    yes = yes && packs_are_aligned<T, 4>(forward.dir[d].u) && packs_are_aligned<T, 4>(forward.dir[d].delta) &&
          packs_are_aligned<T, 4>(args.grads[d].du) && packs_are_aligned<T, 4>(args.grads[d].ddelta);
  }
  return yes;
}

template <class T>
bool packed_rows(const vt_scan_args& args) {
  bool yes = args.states % 4 == 0;
  for (int d = 0; d < args.directions; d++) {
    yes = yes && packs_are_aligned<T, 4>(args.dir[d].B) && packs_are_aligned<T, 4>(args.dir[d].C);
  }
  return yes;
}

template <class T, class S>
int32_t run(const Params& params) {
  const vt_scan_args& forward = params.args.forward;
  const int64_t channel_blocks = divide_up(forward.channels, S::kBlockChannels);
  const int64_t blocks = channel_blocks * params.plan.chunks * forward.batch;
  const int at_once = min((int)forward.directions, S::kDirections);
  const int threads = at_once * S::kThreads, bytes = BlockMemory<S>::bytes(at_once);
  int32_t status = VT_OK;
  if (params.plan.chunks > 1) {
    status = launch(forward.runtime, adjoint_kernel<T, S::kStates>, blocks, threads, bytes, params);
    if (status == VT_OK) status = combine_chunks(forward, params.plan, params.chunks, true);
  }
  for (Params each = params; each.direction < forward.directions; each.direction += at_once) {
    const auto kernel = scan_backward_kernel<T, S::kStates, (S::kChannels > 1)>;
    if (status == VT_OK) status = launch(forward.runtime, kernel, blocks, threads, bytes, each);
  }
  if (status == VT_OK) status = sum_row_partials(params, channel_blocks, S::kStates);
  return status == VT_OK ? sum_channel_partials(params) : status;
}

}  // namespace

int64_t scan_backward_workspace(const vt_scan_backward_args& args) {
  Workspace workspace = {nullptr};
  Params params = {args, plan(args.forward), {}, {}, 0, false, false};
  place_partials(workspace, params);
  return workspace.bytes;
}

int32_t scan_backward(const vt_scan_backward_args& args) {
  Workspace workspace = {(char*)args.forward.runtime.workspace};
  Params params = {args, plan(args.forward), {}, {}, 0, false, false};
  place_partials(workspace, params);
  return with_element(args.forward.dtype, [&](auto element) {
    using T = decltype(element);
    params.packed = packed<T>(args);
    params.packed_rows = packed_rows<T>(args.forward);
    return with_shape(args.forward.states, params.plan.large_batch,
                      [&](auto shape) { return run<T, decltype(shape)>(params); });
  });
}

}  // namespace vt
