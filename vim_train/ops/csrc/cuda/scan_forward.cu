// Selective scan, forward: one or two directions, their sum, the scale and the gate in one pass over the rows.
//
// A large batch has a thread for each channel of each direction and all its states (of 32: half); a small one has a
// thread for four states. A thread goes through a window tile by tile, with the next tile's delta and u under way. B
// and C of a window are staged in shared memory, those of the next window while this one is computed.
#include "kernels.cuh"
#include "math.cuh"
#include "scan_chunks.cuh"
#include "scan_forward.cuh"

namespace vt {
namespace {

using namespace forward;

constexpr int64_t kMaxKeptBytes = 32 * 1024;

struct Params {
  vt_scan_args args;
  ScanPlan plan;
  ChunkStates chunks;
  bool ends_only;  // walk every chunk from zero and leave where it ends in `chunks`; write nothing else

  // Of the launch, by launch_walks():
  bool writes, gated, paired;  // whether there is an output, a gate, a second direction
  bool kept_in_shared;         // what the first direction leaves at a window for the second; else it is in `out`
};

// What a thread works on.
struct Place {
  int d, thread, chunk;
  int64_t batch;
  int64_t channel;  // where there is none of its own, the last: the thread computes the same and writes nothing
  bool exists;
};

template <class S>
__device__ __forceinline__ Place place_of(const Params& params, unsigned block, unsigned index) {
  const int64_t channels = params.args.channels;
  const unsigned channel_blocks = (unsigned)divide_up(channels, S::kChannels);
  const unsigned chunks = S::kChunked ? (unsigned)params.plan.chunks : 1;
  const unsigned rest = block / channel_blocks;
  const int d = (int)index / kThreads, thread = (int)index % kThreads;
  const int64_t channel = (int64_t)(block % channel_blocks) * S::kChannels + thread / S::kLanes;
  const bool exists = channel < channels;
  return {d, thread, (int)(rest % chunks), rest / chunks, exists ? channel : channels - 1, exists};
}

// One thread's share: a channel of a direction, or some states of it.
template <class T, class S>
struct Lane {
  static constexpr int kTile = S::kTile, kLanes = S::kLanes, kOwnSteps = S::kOwnSteps, kOwnStates = S::kOwnStates;

  const Params& params;
  int lane, sign;
  bool reverse, exists;

  // Columns are at the thread's own steps of a tile: delta and u of the next, the others of the current one.
  Column<T> delta_column, u_column;
  T *z_at, *out_at;
  T* kept;             // in shared memory: [position][channel]
  float* checkpoints;  // the channel's of window 0, or null if none are to be written
  float state[kOwnStates] = {}, rate[kOwnStates];
  float skip, bias, delta_sum = 0.0f;
  Loaded<T> next_delta[kOwnSteps], next_u[kOwnSteps];

  __device__ __forceinline__ Lane(const Params& params, const Place& place, const Walk& walk, T* kept_rows);
  __device__ __forceinline__ void load_ahead(Slots slots, int first);
  __device__ __forceinline__ void save_checkpoint(int window);
  __device__ __forceinline__ void run_tile(Slots slots, Slots next_slots, int first, bool finishes,
                                           const float* rows);
  __device__ __forceinline__ void finish(float (&y)[kOwnSteps], const Loaded<T> (&z)[kOwnSteps], Slots slots,
                                         int first) const;
  __device__ __forceinline__ void leave_states(const Place& place);

 private:
  // `sign` is hidden, or the strides would take registers.
  __device__ __forceinline__ Column<T> z_column() const { return {z_at, hidden(sign) * (int)params.args.z.stride_len}; }
  __device__ __forceinline__ Column<T> out_column() const {
    return {out_at, hidden(sign) * (int)params.args.out.stride_len};
  }
  __device__ __forceinline__ Column<T> kept_column() const { return {kept, sign * S::kChannels}; }

  // first: of the tile.
  __device__ __forceinline__ void load_own(Loaded<T> (&x)[kOwnSteps], const Column<T>& from, Slots slots,
                                           int first) const {
    if (slots.all()) {
      from.load(x);
    } else {
      from.load(x, slots, first + lane * kOwnSteps);
    }
  }
  __device__ __forceinline__ void store_own(const Column<T>& to, const float (&x)[kOwnSteps], Slots slots,
                                            int first) const {
    if (!exists) return;
    if (slots.all()) {
      to.store(x);
    } else {
      to.store(x, slots, first + lane * kOwnSteps);
    }
  }
};

// kept_rows are those of the chunk in shared memory.
template <class T, class S>
__device__ __forceinline__ Lane<T, S>::Lane(const Params& params, const Place& place, const Walk& walk, T* kept_rows)
    : params(params), lane(place.thread % kLanes), sign(walk.reverse ? -1 : 1), reverse(walk.reverse),
      exists(place.exists) {
  const vt_scan_args& args = params.args;
  const vt_direction& dir = args.dir[place.d];
  const int64_t own = walk.start() + sign * lane * kOwnSteps, e = place.channel, lowest = (int64_t)walk.first * kWindow;
  delta_column = {row_of<T>(dir.delta, place.batch, own) + e, sign * (int)dir.delta.stride_len};
  u_column = {row_of<T>(dir.u, place.batch, own) + e, sign * (int)dir.u.stride_len};
  z_at = args.z.data ? row_of<T>(args.z, place.batch, own) + e : nullptr;
  out_at = args.out.data ? row_of<T>(args.out, place.batch, own) + e : nullptr;
  kept = kept_rows + (own - lowest) * S::kChannels + place.thread / kLanes;

  load_rates(rate, args, place.d, e, lane * kOwnStates);
  skip = dir.D ? dir.D[e] : 0.0f;
  bias = dir.delta_bias ? dir.delta_bias[e] : 0.0f;
  if (S::kChunked && params.plan.chunks > 1 && !params.ends_only) {
    params.chunks.slab(args, params.plan, place.d, place.chunk, place.batch).load(state, e, lane * kOwnStates);
  }
  const bool saves = dir.checkpoints && exists && !(S::kChunked && params.ends_only);
  checkpoints = saves ? checkpoint_of(args, place.d, place.batch, 0).one_channel(e) : nullptr;
}

template <class T, class S>
__device__ __forceinline__ void Lane<T, S>::load_ahead(Slots slots, int first) {
  if (slots.all()) {
    delta_column.load(next_delta);
    u_column.load(next_u);
  } else {
    delta_column.load(next_delta, slots, first + lane * kOwnSteps);
    u_column.load(next_u, slots, first + lane * kOwnSteps);
  }
  delta_column.advance(kTile);
  u_column.advance(kTile);
}

template <class T, class S>
__device__ __forceinline__ void Lane<T, S>::save_checkpoint(int window) {
  if (!checkpoints || window == (reverse ? params.plan.windows - 1 : 0)) return;
  const Slab slab = {checkpoints + window * params.plan.slab, (int)params.args.channels, (int)params.args.states};
  slab.store(state, 0, lane * kOwnStates);
}

// Takes the states through the tile that begins with slot `first` of a window. rows: its B and C.
template <class T, class S>
__device__ __forceinline__ void Lane<T, S>::run_tile(Slots slots, Slots next_slots, int first, bool finishes,
                                                     const float* rows) {
  float delta[kOwnSteps], delta_u[kOwnSteps], through[kOwnSteps], y[kTile];
#pragma unroll
  for (int i = 0; i < kOwnSteps; i++) delta[i] = next_delta[i].value() + bias;
  if (params.args.delta_softplus) {
#pragma unroll
    for (int i = 0; i < kOwnSteps; i++) delta[i] = softplus(delta[i]);
  }
  if (!slots.all()) {
#pragma unroll
    for (int i = 0; i < kOwnSteps; i++) {
      if (!slots.has(first + lane * kOwnSteps + i)) delta[i] = 0.0f;
    }
  }
#pragma unroll
  for (int i = 0; i < kOwnSteps; i++) {
    const float u = next_u[i].value();
    delta_u[i] = delta[i] * u;
    through[i] = skip * u;
    if (S::kChunked) delta_sum += delta[i];
  }
#pragma unroll
  for (int t = 0; t < kTile; t++) y[t] = kLanes == 1 ? through[t % kOwnSteps] : 0.0f;

  // What is loaded is under way while the second half is computed: earlier it would take registers from the first.
  run_steps<S::kStates, kLanes, 0, kTile / 2>(state, rate, delta, delta_u, rows, y);
  const bool last = first + kTile == kWindow;
  load_ahead(last ? next_slots : slots, last ? 0 : first + kTile);
  Loaded<T> z[kOwnSteps];
  if (finishes && params.gated) load_own(z, z_column(), slots, first);
  run_steps<S::kStates, kLanes, kTile / 2, kTile>(state, rate, delta, delta_u, rows, y);

  if (params.writes) {
    float own[kOwnSteps];
    sum_own_steps<kLanes>(y, lane);
#pragma unroll
    for (int i = 0; i < kOwnSteps; i++) own[i] = kLanes == 1 ? y[i] : y[i] + through[i];
    if (finishes) {
      finish(own, z, slots, first);
    } else if (params.kept_in_shared) {
      store_own(kept_column(), own, slots, first);
    } else {
      store_own(out_column(), own, slots, first);
    }
  }
  z_at = z_column().row(kTile);
  out_at = out_column().row(kTile);
  kept += sign * kTile * S::kChannels;
}

// Adds what the other direction left to y, scales, gates and writes.
template <class T, class S>
__device__ __forceinline__ void Lane<T, S>::finish(float (&y)[kOwnSteps], const Loaded<T> (&z)[kOwnSteps], Slots slots,
                                                   int first) const {
  if (!exists) return;  // what it would add is another thread's, which writes it now
  if (params.paired) {
    Loaded<T> others[kOwnSteps];
    if (params.kept_in_shared) {
      load_own(others, kept_column(), slots, first);
    } else {
      load_own(others, out_column(), slots, first);
    }
#pragma unroll
    for (int i = 0; i < kOwnSteps; i++) y[i] += others[i].value();
  }
#pragma unroll
  for (int i = 0; i < kOwnSteps; i++) y[i] *= params.args.scale;
  if (params.gated) {
#pragma unroll
    for (int i = 0; i < kOwnSteps; i++) y[i] *= z[i].value() * sigmoid(z[i].value());
  }
  store_own(out_column(), y, slots, first);
}

// At the end of the walk: for the next chunk, or for the caller.
template <class T, class S>
__device__ __forceinline__ void Lane<T, S>::leave_states(const Place& place) {
  const vt_scan_args& args = params.args;
  const vt_direction& dir = args.dir[place.d];
  const int own_lane = place.thread % kLanes, first = own_lane * kOwnStates;
  if (S::kChunked && params.ends_only) {
#pragma unroll
    for (int mask = 1; mask < kLanes; mask *= 2) delta_sum += __shfl_xor_sync(~0u, delta_sum, mask);
    if (!place.exists) return;
    params.chunks.slab(args, params.plan, place.d, place.chunk, place.batch).store(state, place.channel, first);
    if (own_lane > 0) return;
    params.chunks.delta_sums(args, params.plan, place.d, place.chunk, place.batch)[place.channel] = delta_sum;
  } else if (dir.last_state && place.exists && place.chunk == (dir.reverse ? 0 : params.plan.chunks - 1)) {
    float* last = dir.last_state + (place.batch * args.channels + place.channel) * args.states;
#pragma unroll
    for (int i = 0; i < kOwnStates; i++) {
      if (first + i < args.states) last[first + i] = state[i];
    }
  }
}

template <class T, class S>
__global__ void __launch_bounds__(2 * kThreads, S::kBlocksAtOnce) scan_forward_kernel(const Params params) {
  extern __shared__ __align__(16) unsigned char shared[];
  const vt_scan_args& args = params.args;
  const Place place = place_of<S>(params, blockIdx.x, threadIdx.x);
  const Walk whole = walk_of(args, params.plan, place.chunk, place.d, false);

  float* const staged = (float*)shared;  // [direction][2 windows]: one is filled while the other is used
  float* const buffers = staged + 2 * place.d * S::kStaged;
  Lane<T, S> lane(params, place, whole, (T*)(staged + 2 * args.directions * S::kStaged));
  Stager<T, kThreads, S::kStates, S::kTile> stager(args, place.d, place.batch, whole.start(), lane.sign, place.thread);
  const int first_state = lane.lane * S::kOwnStates;

  const Slots entered = slots_of(args.length, whole.window(0), whole.reverse);
  lane.load_ahead(entered, 0);
#pragma unroll 1
  for (int first = 0; first < kWindow; first += S::kTile) {
    stager.fetch(entered, first);
    stager.put(buffers + first * S::kRow);
  }
  __syncthreads();

#pragma unroll 1
  for (int round = 0; round < params.plan.rounds; round++) {
    const Walk walk = walk_of(args, params.plan, place.chunk, hidden(threadIdx.x) / kThreads, false);
    const int visit = round - walk.delay;
    if (0 <= visit && visit < walk.count) {
      const int window = walk.window(visit);
      const Slots slots = slots_of(args.length, window, walk.reverse);
      const Slots next_slots = slots_of(args.length, walk.window(visit + 1), walk.reverse);
      const bool finishes = visit >= walk.finishes_from;
      const float* rows = buffers + visit % 2 * S::kStaged + first_state;
      float* next_rows = buffers + (visit + 1) % 2 * S::kStaged;
      lane.save_checkpoint(window);
#pragma unroll 1
      for (int first = 0; first < kWindow; first += S::kTile) {
        stager.fetch(next_slots, first);
        lane.run_tile(slots, next_slots, first, finishes, rows);
        stager.put(next_rows);
        rows += S::kTile * S::kRow;
        next_rows += S::kTile * S::kRow;
      }
    }
    __syncthreads();
  }
  // Found anew, so that the place takes no registers until here.
  lane.leave_states(place_of<S>(params, hidden(blockIdx.x), hidden(threadIdx.x)));
}

template <class T, class S>
int32_t launch_walks(Params params) {
  const vt_scan_args& args = params.args;
  const int64_t chunk_length = (int64_t)params.plan.chunk_windows * kWindow;
  const int64_t staged = 2 * args.directions * S::kStaged * (int64_t)sizeof(float);
  const int64_t kept = (chunk_length < args.length ? chunk_length : args.length) * S::kChannels * (int64_t)sizeof(T);
  params.writes = args.out.data && !params.ends_only;
  params.gated = params.writes && args.z.data;
  params.paired = args.directions == 2;
  params.kept_in_shared = params.writes && params.paired && kept <= kMaxKeptBytes;
  const int64_t blocks = divide_up(args.channels, S::kChannels) * params.plan.chunks * args.batch;
  return launch(args.runtime, scan_forward_kernel<T, S>, blocks, kThreads * args.directions,
                (int)(staged + (params.kept_in_shared ? kept : 0)), params);
}

template <class T, bool kLargeBatch>
int32_t run_walks(const Params& params) {
  if (params.args.states <= 8) return launch_walks<T, Shape<8, kLargeBatch>>(params);
  if (params.args.states <= 16) return launch_walks<T, Shape<16, kLargeBatch>>(params);
  return launch_walks<T, Shape<32, kLargeBatch>>(params);
}

int32_t run_walks(const Params& params) {
  return with_element(params.args.dtype, [&](auto element) {
    using T = decltype(element);
    return params.plan.large_batch ? run_walks<T, true>(params) : run_walks<T, false>(params);
  });
}

}  // namespace

int64_t scan_forward_workspace(const vt_scan_args& args) {
  Workspace workspace = {nullptr};
  ChunkStates chunks;
  chunks.place(workspace, args, plan(args));
  return workspace.bytes;
}

int32_t scan_forward(const vt_scan_args& args) {
  Params params = {};
  params.args = args;
  params.plan = plan(args);
  if (params.plan.chunks > 1) {
    Workspace workspace = {(char*)args.runtime.workspace};
    params.chunks.place(workspace, args, params.plan);
    params.ends_only = true;
    int32_t status = run_walks(params);
    if (status == VT_OK) status = combine_chunks(args, params.plan, params.chunks, false);
    if (status != VT_OK) return status;
    params.ends_only = false;
  }
  return run_walks(params);
}

}  // namespace vt
