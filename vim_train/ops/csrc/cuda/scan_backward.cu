// Selective scan, backward: the gradients of one or two directions in one pass over the rows.
//
// A direction goes through its windows, and through each, against its scan order. A window's states come again from its
// checkpoint: those before each of its tiles in a first run, then tile by tile those of every step.
#include "scan_backward_rows.cuh"

#include "kernels.cuh"
#include "scan_backward_sums.cuh"

namespace vt {
namespace {

using namespace backward;

// What a thread keeps from window to window.
template <class S>
struct Thread {
  States<S> rate;
  Adjoint<S> adjoint;
  float D, dD, dbias;  // of its own channel

  __device__ __forceinline__ Thread(const Params& params, const Task& task, const Place<S>& place) {
    const vt_scan_args& forward = params.args.forward;
    D = dD = dbias = 0.0f;
#pragma unroll
    for (int k = 0; k < S::kChannels; k++) {
      const int64_t channel = task.first_channel + place.block_channel(k);
#pragma unroll
      for (int n = 0; n < 4; n++) rate.of[k][n] = adjoint.dstate.of[k][n] = adjoint.dA.of[k][n] = 0.0f;
      if (channel >= forward.channels) continue;
      load_rates(rate.of[k], forward, place.d, channel, place.group * 4);
      if (k == 0 && forward.dir[place.d].D) D = forward.dir[place.d].D[channel];
      if (params.plan.chunks > 1) {
        params.chunks.slab(forward, params.plan, place.d, task.chunk, task.batch)
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

template <class S>
__device__ __forceinline__ void run_tile(Thread<S>& thread, const States<S>& start, const Inputs<S>& inputs, int tile) {
  const Place<S>& place = inputs.place;
  const WarpMemory<S>& memory = inputs.memory;
  const int first = tile * S::kSteps;
  StateSums<S::kOwnSteps> own;
  RowSums<S> rows[S::kSteps / 2];
  {
    History<S> history;
    history.recompute(start, thread.rate, inputs, first);
    reverse<S>(own, rows, thread.adjoint, history, thread.rate, inputs, first);
  }
#pragma unroll
  for (int i = 0; i < S::kOwnSteps; i++) {
    const int element = (first + i * S::kSharers + place.sharer) * S::kWarpChannels + place.own;
    const float2 u_dy = memory.u_dy()[element];
    const float delta = memory.delta_input()[element].x;
    const float ddelta = fmaf(own.dinput[i], u_dy.x, own.dexponent[i] * kLn2) * memory.slope()[element];
    memory.delta_input()[element] = make_float2(fmaf(own.dinput[i], delta, u_dy.y * thread.D), ddelta);
    memory.slope()[element] = fmaf(thread.D, u_dy.x, own.y[i]);
    thread.dD = fmaf(u_dy.y, u_dy.x, thread.dD);
    thread.dbias += ddelta;
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < S::kSteps / 2; i++) {
    store_floats(memory.sums(tile) + i * 2 * S::kRow + place.lane * RowSums<S>::kCount, rows[i].of);
  }
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
__device__ __forceinline__ void write_channel_sums(Thread<S>& thread, const Params& params, const Task& task) {
  const Place<S> place = place_of_thread<S>();
  const vt_scan_args& forward = params.args.forward;
  const int64_t row = (task.chunk * forward.batch + task.batch) * forward.directions + place.d;
  float* dA = params.partials.channels + row * forward.channels * (forward.states + 2);
  float* dD = dA + forward.channels * forward.states;
  float* dbias = dD + forward.channels;
#pragma unroll
  for (int mask = S::kWarpChannels; mask < 32; mask *= 2) {
    thread.dD += __shfl_xor_sync(~0u, thread.dD, mask);
    thread.dbias += __shfl_xor_sync(~0u, thread.dbias, mask);
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
    if (k == 0 && place.sharer == 0) dD[channel] = thread.dD, dbias[channel] = thread.dbias;
  }
}

template <class T, int kStates, bool kLargeBatch>
__global__ void __launch_bounds__(2 * Shape<kStates, kLargeBatch>::kThreads, Shape<kStates, kLargeBatch>::kBlocksAtOnce)
    scan_backward_kernel(const Params params) {
  using S = Shape<kStates, kLargeBatch>;
  extern __shared__ __align__(16) unsigned char shared[];
  const Place<S> place = place_of_thread<S>();
  const BlockMemory<S> block = {(float*)shared + place.d * BlockMemory<S>::kDirection};
  const Task& task = block.task();
  if (place.thread == 0) describe<T, S>(block.task(), params, place.d);
  __syncthreads();

  const WarpMemory<S> memory = block.warp(place.warp);
  const Inputs<S> inputs = {place, memory, block.bc()};
  Thread<S> thread(params, task, place);

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
  write_channel_sums(thread, params, task);
}

// The adjoint states of every chunk, from zero, for combine_chunks().
template <class T, int kStates>
__global__ void __launch_bounds__(2 * Shape<kStates, false>::kThreads) adjoint_kernel(const Params params) {
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
  const int threads = forward.directions * S::kThreads, bytes = BlockMemory<S>::bytes(forward.directions);
  int32_t status = VT_OK;
  if (params.plan.chunks > 1) {
    status = launch(forward.runtime, adjoint_kernel<T, S::kStates>, blocks, threads, bytes, params);
    if (status == VT_OK) status = combine_chunks(forward, params.plan, params.chunks, true);
  }
  if (status == VT_OK) {
    const auto kernel = scan_backward_kernel<T, S::kStates, (S::kChannels > 1)>;
    status = launch(forward.runtime, kernel, blocks, threads, bytes, params);
  }
  if (status == VT_OK) status = sum_row_partials(params, channel_blocks, S::kStates);
  return status == VT_OK ? sum_channel_partials(params) : status;
}

}  // namespace

int64_t scan_backward_workspace(const vt_scan_backward_args& args) {
  Workspace workspace = {nullptr};
  Params params = {args, plan(args.forward), {}, {}, false, false};
  place_partials(workspace, params);
  return workspace.bytes;
}

int32_t scan_backward(const vt_scan_backward_args& args) {
  Workspace workspace = {(char*)args.forward.runtime.workspace};
  Params params = {args, plan(args.forward), {}, {}, false, false};
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
