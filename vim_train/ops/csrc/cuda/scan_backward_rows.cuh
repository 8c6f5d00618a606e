// Rows of memory in the backward scan: reading a window into shared memory, and writing what became of it.
#pragma once

#include "pack.cuh"
#include "scan_backward_tile.cuh"

namespace vt {
namespace backward {

// A direction's visit to a window.
template <class S>
struct Visit {
  const Params& params;
  const BlockMemory<S>& block;
  int d, window;
  Slots slots;
  bool first, together;  // the other has not been here yet; or it is here too, and then direction 0 is first

  __device__ __forceinline__ Visit(const Params& params, const BlockMemory<S>& block, int number)
      : params(params), block(block), d(params.direction + place_of_thread<S>().d) {
    const Walk walk = task().walk;
    window = walk.window(number);
    slots = slots_of(forward().length, window, !walk.reverse);
    const int others = opposite() ? walk.count - 1 - number : number;
    together = S::kDirections == 2 && others == number;
    first = forward().directions == 2 && (S::kDirections == 2 && !together ? others > number : d == 0);
  }

  __device__ __forceinline__ const vt_scan_args& forward() const { return params.args.forward; }
  __device__ __forceinline__ const Task& task() const { return block.task(); }
  __device__ __forceinline__ bool opposite() const {
    return (forward().dir[0].reverse != 0) != (forward().dir[1].reverse != 0);
  }
};

// A lane's share of a warp's elements in a window: kSize adjacent channels at every kRowsApart'th slot.
template <class S, int kSize>
struct Share {
  static constexpr int kAcross = S::kWarpChannels / kSize;
  static constexpr int kRowsApart = 32 / kAcross;
  static constexpr int kTurns = kWindow / kRowsApart;

  WarpMemory<S> memory;
  int first_slot, channel, column;  // of the warp, of the block
  bool exists;

  __device__ __forceinline__ explicit Share(const Visit<S>& visit) {
    const Place<S> place = place_of_thread<S>();
    memory = visit.block.warp(place.warp);
    first_slot = place.lane / kAcross;
    channel = place.lane % kAcross * kSize;
    column = place.warp * S::kWarpChannels + channel;
    exists = column < visit.task().channels;
  }

  __device__ __forceinline__ int slot(int turn) const { return first_slot + turn * kRowsApart; }
  __device__ __forceinline__ int element(int turn) const { return slot(turn) * S::kWarpChannels + channel; }
};

// ---- reading -------------------------------------------------------------------------------------------------------

template <class T, int kSize>
struct RawInputs {
  Pack<T, kSize> delta, u, dout, z;
};

// Zeros where there are no elements.
template <class T, class S, int kSize>
__device__ __forceinline__ void load(RawInputs<T, kSize>& raw, const Visit<S>& visit, const Share<S, kSize>& share,
                                     int turn) {
  memset(&raw, 0, sizeof raw);
  const int slot = share.slot(turn);
  if (!share.exists || !visit.slots.has(slot)) return;
  const Task& task = visit.task();
  raw.delta = load_constant<kSize>(task.row<const T>(Task::kDelta, slot, share.column));
  raw.u = load_constant<kSize>(task.row<const T>(Task::kU, slot, share.column));
  raw.dout = load_constant<kSize>(task.row<const T>(Task::kDout, slot, share.column));
  if (visit.forward().z.data) raw.z = load_constant<kSize>(task.row<const T>(Task::kZ, slot, share.column));
}

template <class S, int kSize>
__device__ __forceinline__ void load_bias(float (&bias)[kSize], const Visit<S>& visit, const Share<S, kSize>& share) {
  const float* from = visit.forward().dir[visit.d].delta_bias;
#pragma unroll
  for (int c = 0; c < kSize; c++) bias[c] = 0.0f;
  if (!from || !share.exists) return;
  from += visit.task().first_channel + share.column;
#pragma unroll
  for (int c = 0; c < kSize; c++) bias[c] = __ldg(from + c);
}

// Leaves in shared memory what the states need.
template <class T, class S, int kSize>
__device__ __forceinline__ void prepare(const RawInputs<T, kSize>& raw, const float (&bias)[kSize],
                                        const Visit<S>& visit, const Share<S, kSize>& share, int turn) {
  const vt_scan_args& forward = visit.forward();
  const int element = share.element(turn);
  const bool exists = share.exists && visit.slots.has(share.slot(turn));
  float delta[kSize], u[kSize], dout[kSize], z[kSize];
  float delta_input[2 * kSize], u_dy[2 * kSize], slope[kSize], dz_of_y[kSize];
  widen(delta, raw.delta);
  widen(u, raw.u);
  widen(dout, raw.dout);
  widen(z, raw.z);
#pragma unroll
  for (int c = 0; c < kSize; c++) {
    const float x = delta[c] + bias[c];
    delta[c] = !exists ? 0.0f : forward.delta_softplus ? softplus(x) : x;
    delta_input[2 * c] = delta[c], delta_input[2 * c + 1] = delta[c] * u[c];
    slope[c] = forward.delta_softplus ? sigmoid(x) : 1.0f;
    float dy = dout[c] * forward.scale;
    const float s = sigmoid(z[c]), gated = z[c] * s;
    dz_of_y[c] = dy * fmaf(gated, 1.0f - s, s);
    if (forward.z.data) dy *= gated;
    u_dy[2 * c] = u[c], u_dy[2 * c + 1] = dy;
  }
  store_floats((float*)(share.memory.delta_input() + element), delta_input);
  store_floats((float*)(share.memory.u_dy() + element), u_dy);
  store_floats(share.memory.slope() + element, slope);
  store_floats(share.memory.dz_of_y() + element, dz_of_y);
}

// Reads B and C of a window.
template <class T, class S>
__device__ __forceinline__ void stage_bc(const Visit<S>& visit) {
  constexpr int kFours = kWindow * S::kRow / 4;
  const int thread = place_of_thread<S>().thread, states = (int)visit.forward().states;
#pragma unroll
  for (int i = 0; i < divide_up(kFours, S::kThreads); i++) {
    const int four = i * S::kThreads + thread;
    if (kFours % S::kThreads != 0 && four >= kFours) break;
    const int slot = four / (S::kRow / 4), column = four % (S::kRow / 4) * 4, n = column % S::kStates;
    const T* from = visit.task().template row<const T>(column < S::kStates ? Task::kB : Task::kC, slot, n);
    float x[4] = {};
    if (visit.slots.has(slot)) {
      if (visit.params.packed_rows) {
        if (n < states) widen(x, load_constant<4>(from));
      } else {
#pragma unroll
        for (int c = 0; c < 4; c++) {
          if (n + c < states) x[c] = widen(from[c]);
        }
      }
    }
    store_floats(visit.block.bc() + four * 4, x);
  }
}

// Between its loads and the rest is the barrier after which B and C may be read, and after which nobody reads the sums
// of the window before, which lie in the way.
template <class T, int kSize, class S>
__device__ __forceinline__ void read_packs(const Visit<S>& visit) {
  const Share<S, kSize> share(visit);
  float bias[kSize];
  load_bias(bias, visit, share);
  if constexpr (kSize > 1) {
    RawInputs<T, kSize> raw[share.kTurns];
#pragma unroll
    for (int turn = 0; turn < share.kTurns; turn++) load(raw[turn], visit, share, turn);
    __syncthreads();
#pragma unroll
    for (int turn = 0; turn < share.kTurns; turn++) prepare(raw[turn], bias, visit, share, turn);
    __syncwarp();
  } else {
    __syncthreads();
#pragma unroll 1
    for (int turn = 0; turn < share.kTurns; turn++) {
      RawInputs<T, kSize> raw;
      load(raw, visit, share, turn);
      prepare(raw, bias, visit, share, turn);
    }
    __syncthreads();  // the task moves on
  }
}

template <class T, class S>
__device__ __forceinline__ void read_window(const Visit<S>& visit) {
  if (visit.params.packed) {
    read_packs<T, S::kPack>(visit);
  } else {
    read_packs<T, 1>(visit);
  }
}

// ---- writing -------------------------------------------------------------------------------------------------------

// du and ddelta, from where the states' inputs were.
template <class T, class S, int kSize>
__device__ __forceinline__ void write_input_grads(const Visit<S>& visit, const Share<S, kSize>& share, int turn) {
  const int slot = share.slot(turn);
  if (!share.exists || !visit.slots.has(slot)) return;
  float both[2 * kSize], du[kSize], ddelta[kSize];
  load_floats(both, (const float*)(share.memory.delta_input() + share.element(turn)));
#pragma unroll
  for (int c = 0; c < kSize; c++) du[c] = both[2 * c], ddelta[c] = both[2 * c + 1];
  store(visit.task().template row<T>(Task::kDu, kWindow + slot, share.column), du);
  store(visit.task().template row<T>(Task::kDdelta, kWindow + slot, share.column), ddelta);
}

// The direction that comes to a window first leaves its y in dz, the other finishes it.
template <class T, class S, int kSize>
__device__ __forceinline__ void write_dz(const Visit<S>& visit, const Share<S, kSize>& share, int turn) {
  const vt_scan_args& forward = visit.forward();
  const Task& task = visit.task();
  const int slot = share.slot(turn);
  if (!share.exists || !visit.slots.has(slot) || (visit.first && visit.together)) return;
  T* to = task.row<T>(Task::kDz, kWindow + slot, share.column);
  float y[kSize];
  load_floats(y, share.memory.slope() + share.element(turn));
  if (!visit.first) {
    if (forward.directions == 2) {
      float others[kSize];
      if (visit.together) {  // rounded, as from dz
        const int offset = slot - (visit.opposite() ? kWindow - 1 - slot : slot);
        const float* from = share.memory.slope() + share.element(turn) - BlockMemory<S>::kDirection;
        load_floats(others, from - offset * S::kWarpChannels);
#pragma unroll
        for (int c = 0; c < kSize; c++) others[c] = widen(narrow<T>(others[c]));
      } else {
        Pack<T, kSize> pack;
        pack.word = *(const decltype(pack.word)*)to;
        widen(others, pack);
      }
#pragma unroll
      for (int c = 0; c < kSize; c++) y[c] += others[c];
    }
    float dz_of_y[kSize];
    load_floats(dz_of_y, share.memory.dz_of_y() + share.element(turn));
#pragma unroll
    for (int c = 0; c < kSize; c++) y[c] *= dz_of_y[c];
  }
  store(to, y);
}

template <class T, int kSize, class S>
__device__ __forceinline__ void write_packs(const Visit<S>& visit) {
  const Share<S, kSize> share(visit);
  const auto write = [&](int turn) {
    write_input_grads<T>(visit, share, turn);
    if (visit.params.args.dz.data) write_dz<T>(visit, share, turn);
  };
  if constexpr (kSize > 1) {
#pragma unroll
    for (int turn = 0; turn < share.kTurns; turn++) write(turn);
  } else {
#pragma unroll 1
    for (int turn = 0; turn < share.kTurns; turn++) write(turn);
  }
}

template <class T, class S>
__device__ __forceinline__ void write_window(const Visit<S>& visit) {
  if (visit.params.packed) {
    write_packs<T, S::kPack>(visit);
  } else {
    write_packs<T, 1>(visit);
  }
}

// Adds up dB and dC of the warps of a direction.
template <class S>
__device__ __forceinline__ void write_row_sums(const Visit<S>& visit) {
  constexpr int kFours = kWindow * S::kRow / 4;
  const int thread = place_of_thread<S>().thread;
#pragma unroll
  for (int i = 0; i < divide_up(kFours, S::kThreads); i++) {
    const int four = i * S::kThreads + thread;
    if (kFours % S::kThreads != 0 && four >= kFours) break;
    const int slot = four / (S::kRow / 4), column = four % (S::kRow / 4) * 4;
    if (!visit.slots.has(slot)) continue;
    const float* from = visit.block.warp(0).sums(slot) + column;
    float sum[4];
    load_floats(sum, from);
#pragma unroll
    for (int warp = 1; warp < S::kWarps; warp++) {
      float x[4];
      load_floats(x, from + warp * WarpMemory<S>::kFloats);
#pragma unroll
      for (int c = 0; c < 4; c++) sum[c] += x[c];
    }
    store_floats(visit.task().template row<float>(Task::kRowSums, kWindow + slot, column), sum);
  }
}

}  // namespace backward
}  // namespace vt
