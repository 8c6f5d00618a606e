// Selective scan, backward, for one tile: recomputes the states of a chunk from its checkpoint, then walks the chunk in
// reverse.
//
// With a_t = exp(delta_t A), w_t = a_t s_{t-1}, s_t = w_t + delta_t B_t u_t, y_t = C_t . s_t + D u_t, and g_t the
// gradient of s_t, for each channel and state:
//   g_t = a_{t+1} g_{t+1} + C_t dy_t
//   dC_t = sum over channels of s_t dy_t           dB_t = sum over channels of g_t delta_t u_t
//   d(delta_t u_t) = sum over states of g_t B_t    d(delta_t) += sum over states of g_t w_t A
//   dA = sum over steps of g_t w_t delta_t
// dC needs no g and is taken while the states are recomputed; the reverse walk reads only a_t and w_t.
#pragma once

#include "scan_tile.h"

namespace vt {
namespace VT_ISA {
namespace backward {

struct Tile {
  TileRows delta;
  TileRows delta_u;
  TileRows dy;
  TileRows y;
  TileRows ddelta_u;     // sum over states of g B
  TileRows ddelta_rate;  // sum over states of g w A log2(e)
  TileRows u;
  TileRows slope;        // d delta / d (delta before bias and softplus)
  TileRows gate;         // dz / y
};

// What a task needs besides its inputs.
struct Workspace {
  Tile* tile;
  Vec *decays, *decayed;  // a and w of the states in flight, [step][state][vector]: few, to stay in the nearest cache
  float *B, *C;           // [step][state]
  Vec *dB, *dC;           // [state][step]: a lane has the sum over its channels of the group
  Row* states;            // [state], of one block, if its checkpoint is not whole vectors
  Row* dstates;           // [block][state]: a g, carried from chunk to chunk
  Row* drate;             // [block][state]: dA
  Row *dskip, *dbias;     // [block]: dD and d delta_bias
  Row* first_y;           // [block][position]: the first direction's y, for dz

  void place(Arena& arena, const vt_scan_args& args) {
    int64_t count = args.states;
    tile = arena.take<Tile>(1);
    decays = arena.take<Vec>(kSteps * kStatesAtOnce * kVectors);
    decayed = arena.take<Vec>(kSteps * kStatesAtOnce * kVectors);
    B = arena.take<float>(kSteps * count);
    C = arena.take<float>(kSteps * count);
    dB = arena.take<Vec>(kSteps * count);
    dC = arena.take<Vec>(kSteps * count);
    states = arena.take<Row>(count);
    dstates = arena.take<Row>(kGroupBlocks * count);
    drate = arena.take<Row>(kGroupBlocks * count);
    dskip = arena.take<Row>(kGroupBlocks);
    dbias = arena.take<Row>(kGroupBlocks);
    first_y = args.directions == 2 && args.z.data ? arena.take<Row>(kGroupBlocks * args.length) : nullptr;
  }

  void clear(int64_t count) {
    memset((void*)dB, 0, sizeof(Vec) * (size_t)(kSteps * count));
    memset((void*)dC, 0, sizeof(Vec) * (size_t)(kSteps * count));
    memset((void*)dstates, 0, sizeof(Row) * (size_t)(kGroupBlocks * count));
    memset((void*)drate, 0, sizeof(Row) * (size_t)(kGroupBlocks * count));
    memset((void*)dskip, 0, sizeof(Row) * kGroupBlocks);
    memset((void*)dbias, 0, sizeof(Row) * kGroupBlocks);
  }
};

// Recomputes kStates of the states, from state n0 on, through a chunk; adds to y and dC.
template <int kStates, bool kClamp>
VT_INLINE void recompute(Workspace& work, int steps, const Row* rate, const float* states, int64_t n0, int64_t count) {
  constexpr int kChains = kStates * kVectors;
  Tile& tile = *work.tile;
  const float *B = work.B + n0, *C = work.C + n0;
  Vec *decays = work.decays, *decayed = work.decayed, *dC = work.dC + n0 * kSteps;
  Vec s[kChains], rates[kChains];
  VT_UNROLL
  for (int i = 0; i < kChains; i++) {
    s[i] = load(states + n0 * kBlock + i * kLanes);
    rates[i] = rate[n0 + i / kVectors][i % kVectors];
  }
  VT_NO_UNROLL
  for (int t = 0; t < steps; t++, B += count, C += count, decays += kChains, decayed += kChains) {
    int first = t * kVectors;
    Vec decay[kChains], y[kVectors], dy[kVectors], delta_u[kVectors], dc[kStates];
    VT_UNROLL
    for (int i = 0; i < kChains; i++) decay[i] = tile.delta[first + i % kVectors] * rates[i];
    exp2_in_place<kChains, kClamp>(decay);
    VT_UNROLL
    for (int v = 0; v < kVectors; v++) {
      y[v] = tile.y[first + v];
      dy[v] = tile.dy[first + v];
      delta_u[v] = tile.delta_u[first + v];
    }
    VT_UNROLL
    for (int n = 0; n < kStates; n++) dc[n] = dC[n * kSteps + t];
    VT_UNROLL
    for (int i = 0; i < kChains; i++) {
      int n = i / kVectors, v = i % kVectors;
      Vec w = decay[i] * s[i];
      s[i] = fma(delta_u[v], broadcast(B[n]), w);
      y[v] = fma(s[i], broadcast(C[n]), y[v]);
      dc[n] = fma(s[i], dy[v], dc[n]);
      decays[i] = decay[i];
      decayed[i] = w;
    }
    VT_UNROLL
    for (int v = 0; v < kVectors; v++) tile.y[first + v] = y[v];
    VT_UNROLL
    for (int n = 0; n < kStates; n++) dC[n * kSteps + t] = dc[n];
  }
}

// Walks back through what recompute() left; adds to everything that depends on g.
template <int kStates>
VT_INLINE void reverse(Workspace& work, int steps, const Row* rate, Row* dstates, Row* drate, int64_t n0,
                       int64_t count) {
  constexpr int kChains = kStates * kVectors;
  Tile& tile = *work.tile;
  const float *B = work.B + n0 + steps * count, *C = work.C + n0 + steps * count;
  const Vec *decays = work.decays + steps * kChains, *decayed = work.decayed + steps * kChains;
  Vec* dB = work.dB + n0 * kSteps;
  Vec carry[kChains], da[kChains], rates[kChains];
  VT_UNROLL
  for (int i = 0; i < kChains; i++) {
    carry[i] = dstates[n0 + i / kVectors][i % kVectors];
    da[i] = drate[n0 + i / kVectors][i % kVectors];
    rates[i] = rate[n0 + i / kVectors][i % kVectors];
  }
  VT_NO_UNROLL
  for (int t = steps - 1; t >= 0; t--) {
    B -= count, C -= count, decays -= kChains, decayed -= kChains;
    int first = t * kVectors;
    Vec du[kVectors], dr[kVectors], dy[kVectors], delta[kVectors], delta_u[kVectors], db[kStates];
    VT_UNROLL
    for (int v = 0; v < kVectors; v++) {
      du[v] = tile.ddelta_u[first + v];
      dr[v] = tile.ddelta_rate[first + v];
      dy[v] = tile.dy[first + v];
      delta[v] = tile.delta[first + v];
      delta_u[v] = tile.delta_u[first + v];
    }
    VT_UNROLL
    for (int n = 0; n < kStates; n++) db[n] = dB[n * kSteps + t];
    VT_UNROLL
    for (int i = 0; i < kChains; i++) {
      int n = i / kVectors, v = i % kVectors;
      Vec g = fma(dy[v], broadcast(C[n]), carry[i]);
      db[n] = fma(g, delta_u[v], db[n]);
      du[v] = fma(g, broadcast(B[n]), du[v]);
      carry[i] = g * decays[i];
      Vec p = g * decayed[i];
      dr[v] = fma(p, rates[i], dr[v]);
      da[i] = fma(p, delta[v], da[i]);
    }
    VT_UNROLL
    for (int v = 0; v < kVectors; v++) {
      tile.ddelta_u[first + v] = du[v];
      tile.ddelta_rate[first + v] = dr[v];
    }
    VT_UNROLL
    for (int n = 0; n < kStates; n++) dB[n * kSteps + t] = db[n];
  }
  VT_UNROLL
  for (int i = 0; i < kChains; i++) {
    dstates[n0 + i / kVectors][i % kVectors] = carry[i];
    drate[n0 + i / kVectors][i % kVectors] = da[i];
  }
}

// Phase 2.
template <bool kClamp>
VT_NOINLINE void run_states(Workspace& work, int steps, const Row* rate, const float* states, Row* dstates, Row* drate,
                            int64_t count, Prefetcher& ahead) {
  int64_t n = 0;
  for (; n + kStatesAtOnce <= count; n += kStatesAtOnce) {
    recompute<kStatesAtOnce, kClamp>(work, steps, rate, states, n, count);
    reverse<kStatesAtOnce>(work, steps, rate, dstates, drate, n, count);
    ahead.issue();
  }
  for (; n < count; n++) {
    recompute<1, kClamp>(work, steps, rate, states, n, count);
    reverse<1>(work, steps, rate, dstates, drate, n, count);
    ahead.issue();
  }
}

// Phase 1: reads delta, u, dout and z.
template <class T, bool kFull>
VT_NOINLINE void read_rows(Tile& tile, const vt_scan_backward_args& args, int d, const Window& window) {
  load_tile<kFull, const T>(tile.delta, args.forward.dir[d].delta, window);
  load_tile<kFull, const T>(tile.u, args.forward.dir[d].u, window);
  load_tile<kFull, const T>(tile.dy, args.dout, window);
  if (args.forward.z.data) load_tile<kFull, const T>(tile.gate, args.forward.z, window);
}

// From dout and z to the gradient of y and what dz is for each unit of y.
VT_INLINE void finish_gate(Tile& tile, int steps, float scale) {
  const Vec one = broadcast(1.0f);
  for (int i = 0; i < steps * kVectors; i += kAtOnce) {
    Vec z[kAtOnce], s[kAtOnce];
    load_group(z, tile.gate + i);
    sigmoid(z, s);
    VT_UNROLL
    for (int k = 0; k < kAtOnce; k++) {
      Vec dout_s = tile.dy[i + k] * broadcast(scale) * s[k];
      tile.gate[i + k] = dout_s * fma(z[k], one - s[k], one);
      tile.dy[i + k] = dout_s * z[k];
    }
  }
}

// Finishes the tile. Returns the largest |delta|.
VT_NOINLINE float prepare(Tile& tile, const vt_scan_args& forward, int steps, const Row& skip, const Row& bias) {
  finish_delta(tile.delta, tile.slope, steps, bias, forward.delta_softplus);
  for (int t = 0; t < steps; t++) {
    VT_UNROLL
    for (int v = 0; v < kVectors; v++) {
      int i = t * kVectors + v;
      tile.delta_u[i] = tile.delta[i] * tile.u[i];
      tile.y[i] = skip[v] * tile.u[i];
      tile.ddelta_u[i] = Vec{};
      tile.ddelta_rate[i] = Vec{};
    }
  }
  if (forward.z.data) {
    finish_gate(tile, steps, forward.scale);
  } else {
    for (int i = 0; i < steps * kVectors; i++) tile.dy[i] *= broadcast(forward.scale);
  }
  return largest_size(tile.delta, steps);
}

// Phase 3: gradients of u, delta and (with the last direction) z, and the sums over steps for D and delta_bias.
template <class T, bool kFull>
VT_NOINLINE void write_rows(const Tile& tile, const vt_scan_backward_args& args, int d, const Window& window,
                            const Row& skip, Row& dskip, Row& dbias, Row* first_y) {
  Rows<T> du_rows = window.rows<T>(args.grads[d].du);
  Rows<T> ddelta_rows = window.rows<T>(args.grads[d].ddelta);
  Rows<T> dz_rows = window.rows<T>(args.dz);
  bool gated = args.forward.z.data, last = d + 1 == args.forward.directions;
  for (int t = 0; t < window.chunk.steps; t++) {
    VT_UNROLL
    for (int v = 0; v < kVectors; v++) {
      int i = t * kVectors + v;
      Vec u = tile.u[i], dy = tile.dy[i], ddelta_u = tile.ddelta_u[i];
      store_step<kFull>(du_rows, window, t, v, fma(ddelta_u, tile.delta[i], dy * skip[v]));
      Vec ddelta = fma(ddelta_u, u, tile.ddelta_rate[i] * broadcast(kLn2)) * tile.slope[i];
      store_step<kFull>(ddelta_rows, window, t, v, ddelta);
      dskip[v] = fma(dy, u, dskip[v]);
      dbias[v] += ddelta;
      if (!gated) continue;
      Vec y = tile.y[i];
      if (!last) {
        first_y[window.chunk.position(t)][v] = y;
        continue;
      }
      if (first_y) y += first_y[window.chunk.position(t)][v];
      store_step<kFull>(dz_rows, window, t, v, y * tile.gate[i]);
    }
  }
}

// The memory that phase 3 of this window and the next window will touch.
template <class T>
VT_INLINE Prefetcher prefetcher_of(const vt_scan_backward_args& args, int d, const Window& window, const Window& next) {
  const vt_scan_args& forward = args.forward;
  Prefetcher ahead;
  ahead.add<T>(forward.dir[d].delta, next);
  ahead.add<T>(forward.dir[d].u, next);
  ahead.add<T>(args.dout, next);
  ahead.add<T>(forward.z, next);
  ahead.add_run(checkpoint_of(forward, forward.dir[d], next), forward.states * (int64_t)sizeof(Row));
  ahead.add<T>(args.grads[d].du, window);
  ahead.add<T>(args.grads[d].ddelta, window);
  if (d + 1 == forward.directions) ahead.add<T>(args.dz, window);
  ahead.spread_over(divide_up(forward.states, kStatesAtOnce));
  return ahead;
}

template <class T, bool kFull>
VT_INLINE void run_tile(const vt_scan_backward_args& args, int d, const Parameters& parameters, const Group& group,
                        const Window& window, Workspace& work) {
  const vt_scan_args& forward = args.forward;
  const vt_direction& dir = forward.dir[d];
  Tile& tile = *work.tile;
  int steps = window.chunk.steps;
  int64_t count = forward.states, block = window.block, local_block = block - group.first_block;
  const Row &skip = parameters.skip[block], &bias = parameters.delta_bias[block];

  read_rows<T, kFull>(tile, args, d, window);
  float largest = prepare(tile, forward, steps, skip, bias);

  Prefetcher ahead = prefetcher_of<T>(args, d, window, next_window(forward, dir, group, window, -1));
  const float* states = restore_states(checkpoint_of(forward, dir, window), work.states, count, window);
  const Row* rate = parameters.rate + block * count;
  Row *dstates = work.dstates + local_block * count, *drate = work.drate + local_block * count;
  if (largest <= parameters.safe_delta[block]) {
    run_states<false>(work, steps, rate, states, dstates, drate, count, ahead);
  } else {
    run_states<true>(work, steps, rate, states, dstates, drate, count, ahead);
  }

  Row* first_y = work.first_y ? work.first_y + local_block * forward.length : nullptr;
  write_rows<T, kFull>(tile, args, d, window, skip, work.dskip[local_block], work.dbias[local_block], first_y);
}

}  // namespace backward
}  // namespace VT_ISA
}  // namespace vt
