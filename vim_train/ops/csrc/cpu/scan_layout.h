// How the scans divide their work.
//
// A lane of a vector owns a channel and walks the sequence in order; a *block* is kBlock channels (kVectors vectors), a
// *group* is the blocks that one task handles, and a *chunk* is up to VT_CHECKPOINT_STEPS steps in scan order. A block
// of a chunk is a *tile*, and is worked on in three phases that keep to the first-level cache: read the rows and take
// softplus and the like; run the recurrence, a few states at a time with the state in registers for the whole chunk;
// write the rows. Only the first and last phase know the element type and ragged edges; missing channels are zeros.
#pragma once

#include "../include/abi.h"
#include "memory.h"
#include "simd.h"
#include "vector_math.h"

namespace vt {
namespace VT_ISA {

constexpr int kSteps = VT_CHECKPOINT_STEPS;
constexpr int kVectors = 2;
constexpr int kBlock = kVectors * kLanes;
constexpr int kGroup = 96;  // the model's widths (384, 768, 1536) make 4, 8, 16 equal groups
constexpr int kGroupBlocks = kGroup / kBlock;
static_assert(kGroup % kBlock == 0, "a group is whole blocks");

constexpr int kStatesAtOnce = kManyRegisters ? 2 : 1;
constexpr int kTile = kSteps * kVectors;

typedef Vec Row[kVectors];    // one step or one state of a block
typedef Vec TileRows[kTile];  // [step][vector]: one quantity of a tile

VT_INLINE int64_t chunks_of(const vt_scan_args& args) { return divide_up(args.length, kSteps); }
VT_INLINE int64_t groups_of(const vt_scan_args& args) { return divide_up(args.channels, kGroup); }
VT_INLINE int64_t blocks_of(const vt_scan_args& args) { return divide_up(args.channels, kBlock); }

template <class T>
VT_INLINE T* row_of(const vt_tensor& tensor, int64_t batch, int64_t l) {
  return (T*)tensor.data + batch * tensor.stride_batch + l * tensor.stride_len;
}

// Rows of a tensor, one for each step of a chunk.
template <class T>
struct Rows {
  T* first;
  int64_t stride;  // in elements, negative for a reverse scan
  T* operator[](int64_t t) const { return first + t * stride; }
};

// Where a chunk lies.
struct Chunk {
  int64_t batch, index;
  int64_t first;      // position of its first step
  int64_t direction;  // +1 or -1 along the sequence
  int steps;

  int64_t position(int64_t t) const { return first + direction * t; }

  template <class T>
  Rows<T> rows(const vt_tensor& tensor, int64_t column) const {
    return {row_of<T>(tensor, batch, first) + column, direction * tensor.stride_len};
  }
};

VT_INLINE Chunk chunk_of(const vt_scan_args& args, const vt_direction& dir, int64_t batch, int64_t index) {
  int64_t begin = index * kSteps;
  int64_t steps = smaller(kSteps, args.length - begin);
  return {batch, index, dir.reverse ? args.length - 1 - begin : begin, dir.reverse ? -1 : 1, (int)steps};
}

// What one task works on: one sample and the blocks first_block ... first_block + blocks - 1 of all.
struct Group {
  int64_t batch, index;
  int64_t first_block, blocks;
};

VT_INLINE Group group_of(const vt_scan_args& args, int64_t task) {
  int64_t groups = groups_of(args), index = task % groups, first = index * kGroupBlocks;
  return {task / groups, index, first, smaller(kGroupBlocks, blocks_of(args) - first)};
}

// A block of a chunk.
struct Window {
  Chunk chunk;
  int64_t block;    // of all
  int64_t channel;  // its first
  int64_t lanes;    // channels that exist, at most kBlock

  bool full() const { return lanes == kBlock; }

  template <class T>
  Rows<T> rows(const vt_tensor& tensor) const {
    return chunk.rows<T>(tensor, channel);
  }
};

VT_INLINE Window window_of(const vt_scan_args& args, const Chunk& chunk, int64_t block) {
  int64_t channel = block * kBlock;
  return {chunk, block, channel, smaller(kBlock, args.channels - channel)};
}

// The window that a task comes to next: another block, else the chunk one `step` (1 or -1) on, else the same again.
VT_INLINE Window next_window(const vt_scan_args& args, const vt_direction& dir, const Group& group, const Window& now,
                             int64_t step) {
  if (now.block + 1 < group.first_block + group.blocks) return window_of(args, now.chunk, now.block + 1);
  int64_t index = now.chunk.index + step;
  if (index < 0 || index >= chunks_of(args)) return now;
  return window_of(args, chunk_of(args, dir, group.batch, index), group.first_block);
}

// Checkpoints are [batch][chunk][block][state][channel], without room for channels that do not exist.
VT_INLINE float* checkpoint_of(const vt_scan_args& args, const vt_direction& dir, const Window& window) {
  int64_t before = (window.chunk.batch * chunks_of(args) + window.chunk.index) * args.channels + window.channel;
  return dir.checkpoints + before * args.states;
}

VT_INLINE void save_states(float* to, const Row* states, int64_t count, const Window& window) {
  if (window.full()) {
    memcpy(to, states, sizeof(Row) * (size_t)count);
    return;
  }
  int64_t lanes = window.lanes;
  for (int64_t n = 0; n < count; n++) memcpy(to + n * lanes, states + n, sizeof(float) * (size_t)lanes);
}

// The states that save_states() left: in place if they are whole vectors, else spread out to `space`.
VT_INLINE const float* restore_states(const float* from, Row* space, int64_t count, const Window& window) {
  if (window.full()) return from;
  int64_t lanes = window.lanes;
  memset((void*)space, 0, sizeof(Row) * (size_t)count);
  for (int64_t n = 0; n < count; n++) memcpy(space + n, from + n * lanes, sizeof(float) * (size_t)lanes);
  return (const float*)space;
}

// One direction's parameters for all channels, laid out for the kernels.
struct Parameters {
  Row* rate;          // [block][state]: A log2(e), so that a decay is exp2(delta rate)
  float* safe_delta;  // [block]: up to this |delta| exp2 needs no clamp
  Row* skip;          // [block]: D
  Row* delta_bias;    // [block]

  void place(Arena& arena, const vt_scan_args& args) {
    int64_t blocks = blocks_of(args);
    rate = arena.take<Row>(blocks * args.states);
    safe_delta = arena.take<float>(blocks);
    skip = arena.take<Row>(blocks);
    delta_bias = arena.take<Row>(blocks);
  }

  void load_from(const vt_scan_args& args, const vt_direction& dir) {
    int64_t blocks = blocks_of(args), states = args.states;
    memset((void*)rate, 0, sizeof(Row) * (size_t)(blocks * states));
    memset((void*)skip, 0, sizeof(Row) * (size_t)blocks);
    memset((void*)delta_bias, 0, sizeof(Row) * (size_t)blocks);
    for (int64_t e = 0; e < args.channels; e++) {
      float* to = (float*)(rate + e / kBlock * states) + e % kBlock;
      for (int64_t n = 0; n < states; n++) to[n * kBlock] = dir.A[e * states + n] * kLog2E;
    }
    for (int64_t block = 0; block < blocks; block++) {
      Vec fastest{};
      const Vec* rates = rate[block * states];
      for (int64_t i = 0; i < states * kVectors; i++) fastest = max(fastest, abs(rates[i]));
      safe_delta[block] = kLargestExponent / horizontal_max(fastest);
    }
    if (dir.D) memcpy((void*)skip, dir.D, sizeof(float) * (size_t)args.channels);
    if (dir.delta_bias) memcpy((void*)delta_bias, dir.delta_bias, sizeof(float) * (size_t)args.channels);
  }
};

// The parameters of both directions, made once for all tasks.
struct SharedParameters {
  Parameters direction[2];

  void place(Arena& arena, const vt_scan_args& args) {
    for (int d = 0; d < args.directions; d++) direction[d].place(arena, args);
  }
  void load_from(const vt_scan_args& args) {
    for (int d = 0; d < args.directions; d++) direction[d].load_from(args, args.dir[d]);
  }
};

}  // namespace VT_ISA
}  // namespace vt
