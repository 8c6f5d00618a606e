// Selective scan, forward: one or two directions, their sum, the scale and the gate in one pass per channel group.
#pragma once

#include "parallel.h"
#include "scan_tile.h"

namespace vt {
namespace VT_ISA {
namespace forward {

struct Tile {
  TileRows delta;    // step sizes, after bias and softplus
  TileRows delta_u;  // times the input
  TileRows y;
};

// What a task needs besides its inputs.
struct Workspace {
  Tile* tile;
  float *B, *C;  // [step][state]
  Row* states;   // [block][state]
  Row* first_y;  // [block][position]: the first direction's output, where there are two

  void place(Arena& arena, const vt_scan_args& args) {
    tile = arena.take<Tile>(1);
    B = arena.take<float>(kSteps * args.states);
    C = arena.take<float>(kSteps * args.states);
    states = arena.take<Row>(kGroupBlocks * args.states);
    first_y = args.directions == 2 ? arena.take<Row>(kGroupBlocks * args.length) : nullptr;
  }
};

// Runs kStates of the states through a chunk, adding what they give to the tile's y.
template <int kStates, bool kClamp>
VT_INLINE void advance_some(Tile& tile, int steps, const Row* rate, Row* states, const float* B, const float* C,
                            int64_t count) {
  constexpr int kChains = kStates * kVectors;
  Vec s[kChains], rates[kChains];
  VT_UNROLL
  for (int i = 0; i < kChains; i++) {
    s[i] = states[i / kVectors][i % kVectors];
    rates[i] = rate[i / kVectors][i % kVectors];
  }
  VT_NO_UNROLL
  for (int t = 0; t < steps; t++, B += count, C += count) {
    int first = t * kVectors;
    Vec decay[kChains], delta_u[kVectors], y[kVectors];
    VT_UNROLL
    for (int i = 0; i < kChains; i++) decay[i] = tile.delta[first + i % kVectors] * rates[i];
    exp2_in_place<kChains, kClamp>(decay);
    VT_UNROLL
    for (int v = 0; v < kVectors; v++) delta_u[v] = tile.delta_u[first + v], y[v] = tile.y[first + v];
    VT_UNROLL
    for (int i = 0; i < kChains; i++) {
      int n = i / kVectors, v = i % kVectors;
      s[i] = fma(decay[i], s[i], delta_u[v] * broadcast(B[n]));
      y[v] = fma(s[i], broadcast(C[n]), y[v]);
    }
    VT_UNROLL
    for (int v = 0; v < kVectors; v++) tile.y[first + v] = y[v];
  }
  VT_UNROLL
  for (int i = 0; i < kChains; i++) states[i / kVectors][i % kVectors] = s[i];
}

// Phase 2.
template <bool kClamp>
VT_NOINLINE void advance(Tile& tile, int steps, const Row* rate, Row* states, const float* B, const float* C,
                         int64_t count, Prefetcher& ahead) {
  int64_t n = 0;
  for (; n + kStatesAtOnce <= count; n += kStatesAtOnce) {
    advance_some<kStatesAtOnce, kClamp>(tile, steps, rate + n, states + n, B + n, C + n, count);
    ahead.issue();
  }
  for (; n < count; n++) {
    advance_some<1, kClamp>(tile, steps, rate + n, states + n, B + n, C + n, count);
    ahead.issue();
  }
}

// Phase 1: reads delta and u, the latter to y.
template <class T, bool kFull>
VT_NOINLINE void read_rows(Tile& tile, const vt_direction& dir, const Window& window) {
  load_tile<kFull, const T>(tile.delta, dir.delta, window);
  load_tile<kFull, const T>(tile.y, dir.u, window);
}

// Finishes the tile; y becomes D u, plus what the first direction gave. Returns the largest |delta|.
VT_NOINLINE float prepare(Tile& tile, bool softplus, const Chunk& chunk, const Row& skip, const Row& bias,
                          const Row* first_y) {
  finish_delta(tile.delta, nullptr, chunk.steps, bias, softplus);
  for (int t = 0; t < chunk.steps; t++) {
    VT_UNROLL
    for (int v = 0; v < kVectors; v++) {
      int i = t * kVectors + v;
      Vec u = tile.y[i];
      tile.delta_u[i] = tile.delta[i] * u;
      tile.y[i] = first_y ? fma(skip[v], u, first_y[chunk.position(t)][v]) : skip[v] * u;
    }
  }
  return largest_size(tile.delta, chunk.steps);
}

// Phase 3: scales, gates and writes.
template <class T, bool kFull>
VT_NOINLINE void write_rows(Tile& tile, const vt_scan_args& args, const Window& window) {
  Rows<T> out_rows = window.rows<T>(args.out);
  Vec scale = broadcast(args.scale);
  TileRows& z = tile.delta;  // no longer needed
  bool gated = args.z.data;
  if (gated) load_tile<kFull, const T>(z, args.z, window);
  for (int i = 0; i < window.chunk.steps * kVectors; i += kAtOnce) {
    Vec gate[kAtOnce], s[kAtOnce] = {};
    load_group(gate, z + i);
    if (gated) sigmoid(gate, s);
    VT_UNROLL
    for (int k = 0; k < kAtOnce; k++) {
      int t = (i + k) / kVectors, v = k % kVectors;
      Vec y = tile.y[i + k] * scale;
      if (t < window.chunk.steps) store_step<kFull>(out_rows, window, t, v, gated ? y * gate[k] * s[k] : y);
    }
  }
}

template <class T, bool kFull>
VT_INLINE void run_tile(const vt_scan_args& args, int d, const Parameters& parameters, const Group& group,
                        const Window& window, Workspace& work) {
  const vt_direction& dir = args.dir[d];
  const Chunk& chunk = window.chunk;
  Tile& tile = *work.tile;
  int64_t count = args.states, block = window.block, local_block = block - group.first_block;
  Row* states = work.states + local_block * count;
  Row* first_y = work.first_y ? work.first_y + local_block * args.length : nullptr;
  bool last = d + 1 == args.directions, wanted = args.out.data;

  read_rows<T, kFull>(tile, dir, window);
  float largest = prepare(tile, args.delta_softplus, chunk, parameters.skip[block], parameters.delta_bias[block],
                          d == 1 && wanted ? first_y : nullptr);
  if (dir.checkpoints) save_states(checkpoint_of(args, dir, window), states, count, window);

  Prefetcher ahead;
  Window next = next_window(args, dir, group, window, 1);
  ahead.add<T>(dir.delta, next);
  ahead.add<T>(dir.u, next);
  if (last && wanted) {
    ahead.add<T>(args.z, window);
    ahead.add<T>(args.out, window);
  }
  ahead.spread_over(divide_up(count, kStatesAtOnce));
  const Row* rate = parameters.rate + block * count;
  if (largest <= parameters.safe_delta[block]) {
    advance<false>(tile, chunk.steps, rate, states, work.B, work.C, count, ahead);
  } else {
    advance<true>(tile, chunk.steps, rate, states, work.B, work.C, count, ahead);
  }

  if (!wanted) return;
  if (last) {
    write_rows<T, kFull>(tile, args, window);
  } else {
    for (int t = 0; t < chunk.steps; t++) memcpy(first_y + chunk.position(t), tile.y + t * kVectors, sizeof(Row));
  }
}

// The states after the last step, from [block][state][channel] to [channel][state].
VT_NOINLINE void write_last_states(const vt_scan_args& args, const vt_direction& dir, const Group& group,
                                   const Row* states) {
  int64_t count = args.states, first = group.first_block * kBlock;
  int64_t channels = smaller(group.blocks * kBlock, args.channels - first);
  float* to = dir.last_state + (group.batch * args.channels + first) * count;
  for (int64_t i = 0; i < channels; i++) {
    const float* from = (const float*)(states + i / kBlock * count) + i % kBlock;
    for (int64_t n = 0; n < count; n++) to[i * count + n] = from[n * kBlock];
  }
}

template <class T>
VT_INLINE void run_direction(const vt_scan_args& args, int d, const Parameters& parameters, const Group& group,
                             Workspace& work) {
  const vt_direction& dir = args.dir[d];
  memset((void*)work.states, 0, sizeof(Row) * (size_t)(group.blocks * args.states));
  for (int64_t c = 0; c < chunks_of(args); c++) {
    Chunk chunk = chunk_of(args, dir, group.batch, c);
    stage_rows<T>(work.B, dir.B, chunk, args.states);
    stage_rows<T>(work.C, dir.C, chunk, args.states);
    for (int64_t block = group.first_block; block < group.first_block + group.blocks; block++) {
      Window window = window_of(args, chunk, block);
      if (window.full()) {
        run_tile<T, true>(args, d, parameters, group, window, work);
      } else {
        run_tile<T, false>(args, d, parameters, group, window, work);
      }
    }
  }
  if (dir.last_state) write_last_states(args, dir, group, work.states);
}

template <class T>
VT_NOINLINE int32_t run_tasks(const vt_scan_args& args, const SharedParameters& parameters, int64_t begin,
                              int64_t end) {
  Arena arena;
  Workspace work;
  work.place(arena, args);
  if (!arena.allocate()) return VT_OUT_OF_MEMORY;
  work.place(arena, args);
  memset((void*)work.tile, 0, sizeof(Tile));
  for (int64_t task = begin; task < end; task++) {
    Group group = group_of(args, task);
    for (int d = 0; d < args.directions; d++) run_direction<T>(args, d, parameters.direction[d], group, work);
  }
  return VT_OK;
}

}  // namespace forward

static int32_t scan_forward(const vt_scan_args& args) {
  Arena arena;
  SharedParameters parameters;
  parameters.place(arena, args);
  if (!arena.allocate()) return VT_OUT_OF_MEMORY;
  parameters.place(arena, args);
  parameters.load_from(args);

  double nanoseconds = 0.3 * (double)(args.directions * args.length * kGroup * args.states);
  int64_t tasks = args.batch * groups_of(args);
  return for_each_task(args.runtime.parallel_for, tasks, nanoseconds, [&](int64_t begin, int64_t end) {
    return with_dtype(args.dtype, [&](auto element) {
      return forward::run_tasks<decltype(element)>(args, parameters, begin, end);
    });
  });
}

}  // namespace VT_ISA
}  // namespace vt
