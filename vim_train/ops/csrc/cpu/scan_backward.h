// Selective scan, backward: the tasks, and the sums over what they leave.
#pragma once

#include "parallel.h"
#include "scan_backward_tile.h"

namespace vt {
namespace VT_ISA {
namespace backward {

// Sums that cross tasks are left here by each task and added up afterwards in index order.
struct Partials {
  float* bc;       // [direction][batch][group][chunk][dB, dC][state][step]
  float* channel;  // [direction][batch]: dA (channels x states), dD (channels), d delta_bias (channels)

  static int64_t bc_size(const vt_scan_args& args) { return 2 * args.states * kSteps; }  // of a chunk
  static int64_t channel_size(const vt_scan_args& args) { return args.channels * (args.states + 2); }

  float* bc_of(const vt_scan_args& args, int d, int64_t batch, int64_t group, int64_t chunk) const {
    return bc + (((d * args.batch + batch) * groups_of(args) + group) * chunks_of(args) + chunk) * bc_size(args);
  }
  float* channel_of(const vt_scan_args& args, int d, int64_t batch) const {
    return channel + (d * args.batch + batch) * channel_size(args);
  }

  void place(Arena& arena, const vt_scan_args& args) {
    bc = arena.take<float>(args.directions * args.batch * groups_of(args) * chunks_of(args) * bc_size(args));
    channel = arena.take<float>(args.directions * args.batch * channel_size(args));
  }
};

// Adds up the lanes of dB or dC for a chunk, [state][step], and clears them for the next.
VT_NOINLINE void write_lane_sums(float* to, Vec* from, int64_t count) {
  for (int64_t i = 0; i < count * kSteps; i += kLanes) {
    store(to + i, lane_sums<kLanes>(from + i));
    VT_UNROLL
    for (int k = 0; k < kLanes; k++) from[i + k] = Vec{};
  }
}

// Leaves the sums over steps of this group's channels.
VT_NOINLINE void write_channel_sums(const Workspace& work, const vt_scan_args& forward, const Group& group,
                                    float* partial) {
  int64_t count = forward.states, first = group.first_block * kBlock;
  int64_t channels = smaller(group.blocks * kBlock, forward.channels - first);
  float* dA = partial + first * count;
  float* dD = partial + forward.channels * count + first;
  float* dbias = dD + forward.channels;
  for (int64_t i = 0; i < channels; i++) {
    const float* from = (const float*)(work.drate + i / kBlock * count) + i % kBlock;
    for (int64_t n = 0; n < count; n++) dA[i * count + n] = from[n * kBlock];
  }
  memcpy(dD, work.dskip, sizeof(float) * (size_t)channels);
  memcpy(dbias, work.dbias, sizeof(float) * (size_t)channels);
}

template <class T>
VT_INLINE void run_direction(const vt_scan_backward_args& args, int d, const Parameters& parameters,
                             const Group& group, Workspace& work, const Partials& partials) {
  const vt_scan_args& forward = args.forward;
  const vt_direction& dir = forward.dir[d];
  int64_t count = forward.states;
  work.clear(count);
  for (int64_t c = chunks_of(forward) - 1; c >= 0; c--) {
    Chunk chunk = chunk_of(forward, dir, group.batch, c);
    stage_rows<T>(work.B, dir.B, chunk, count);
    stage_rows<T>(work.C, dir.C, chunk, count);
    for (int64_t block = group.first_block; block < group.first_block + group.blocks; block++) {
      Window window = window_of(forward, chunk, block);
      if (window.full()) {
        run_tile<T, true>(args, d, parameters, group, window, work);
      } else {
        run_tile<T, false>(args, d, parameters, group, window, work);
      }
    }
    float* bc = partials.bc_of(forward, d, group.batch, group.index, c);
    write_lane_sums(bc, work.dB, count);
    write_lane_sums(bc + count * kSteps, work.dC, count);
  }
  write_channel_sums(work, forward, group, partials.channel_of(forward, d, group.batch));
}

template <class T>
VT_NOINLINE int32_t run_tasks(const vt_scan_backward_args& args, const SharedParameters& parameters,
                              const Partials& partials, int64_t begin, int64_t end) {
  Arena arena;
  Workspace work;
  work.place(arena, args.forward);
  if (!arena.allocate()) return VT_OUT_OF_MEMORY;
  work.place(arena, args.forward);
  memset((void*)work.tile, 0, sizeof(Tile));
  for (int64_t task = begin; task < end; task++) {
    Group group = group_of(args.forward, task);
    for (int d = 0; d < args.forward.directions; d++) {
      run_direction<T>(args, d, parameters.direction[d], group, work, partials);
    }
  }
  return VT_OK;
}

// dB and dC of one direction and sample: the sum over groups, turned from [state][step] into rows.
VT_INLINE void sum_groups(const vt_scan_backward_args& args, const Partials& partials, int d, int64_t batch) {
  const vt_scan_args& forward = args.forward;
  const vt_direction_grads& grads = args.grads[d];
  int64_t count = forward.states, groups = groups_of(forward);
  int64_t stride = chunks_of(forward) * Partials::bc_size(forward);
  for (int64_t c = 0; c < chunks_of(forward); c++) {
    Chunk chunk = chunk_of(forward, forward.dir[d], batch, c);
    const float* partial = partials.bc_of(forward, d, batch, 0, c);
    for (int t = 0; t < chunk.steps; t++) {
      float* dB = row_of<float>(grads.dB, batch, chunk.position(t));
      float* dC = row_of<float>(grads.dC, batch, chunk.position(t));
      for (int64_t n = 0; n < count; n++) {
        const float *from_B = partial + n * kSteps + t, *from_C = from_B + count * kSteps;
        float sum_B = 0, sum_C = 0;
        for (int64_t offset = 0; offset < groups * stride; offset += stride) {
          sum_B += from_B[offset];
          sum_C += from_C[offset];
        }
        dB[n] = sum_B;
        dC[n] = sum_C;
      }
    }
  }
}

// dA, dD and d delta_bias of one direction: the sum over the batch.
VT_INLINE void sum_batch(const vt_scan_backward_args& args, const Partials& partials, int d) {
  const vt_scan_args& forward = args.forward;
  const vt_direction_grads& grads = args.grads[d];
  int64_t channels = forward.channels, of_A = channels * forward.states;
  memset(grads.dA, 0, sizeof(float) * (size_t)of_A);
  if (grads.dD) memset(grads.dD, 0, sizeof(float) * (size_t)channels);
  if (grads.ddelta_bias) memset(grads.ddelta_bias, 0, sizeof(float) * (size_t)channels);
  for (int64_t batch = 0; batch < forward.batch; batch++) {
    const float* partial = partials.channel_of(forward, d, batch);
    add_run(grads.dA, partial, of_A);
    if (grads.dD) add_run(grads.dD, partial + of_A, channels);
    if (grads.ddelta_bias) add_run(grads.ddelta_bias, partial + of_A + channels, channels);
  }
}

}  // namespace backward

static int32_t scan_backward(const vt_scan_backward_args& args) {
  const vt_scan_args& forward = args.forward;
  Arena arena;
  SharedParameters parameters;
  backward::Partials partials;
  auto place = [&] {
    parameters.place(arena, forward);
    partials.place(arena, forward);
  };
  place();
  if (!arena.allocate()) return VT_OUT_OF_MEMORY;
  place();
  parameters.load_from(forward);

  double nanoseconds = 0.6 * (double)(forward.directions * forward.length * kGroup * forward.states);
  int64_t tasks = forward.batch * groups_of(forward);
  auto run = [&](int64_t begin, int64_t end) {
    return with_dtype(forward.dtype, [&](auto element) {
      return backward::run_tasks<decltype(element)>(args, parameters, partials, begin, end);
    });
  };
  int32_t status = for_each_task(forward.runtime.parallel_for, tasks, nanoseconds, run);
  if (status != VT_OK) return status;

  double sums = (double)(groups_of(forward) * forward.length * 2 * forward.states);
  auto sum = [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; task++) {
      backward::sum_groups(args, partials, (int)(task / forward.batch), task % forward.batch);
    }
    return (int32_t)VT_OK;
  };
  status = for_each_task(forward.runtime.parallel_for, forward.directions * forward.batch, sums, sum);
  for (int d = 0; d < forward.directions; d++) backward::sum_batch(args, partials, d);
  return status;
}

}  // namespace VT_ISA
}  // namespace vt
