// Depthwise convolution and SiLU, forward.
#pragma once

#include "conv_tile.h"
#include "parallel.h"

namespace vt {
namespace VT_ISA {
namespace conv {

struct ForwardWork {
  Row* x;      // kRows
  Taps* taps;  // per direction

  void place(Arena& arena) {
    x = arena.take<Row>(kRows);
    taps = arena.take<Taps>(2);
  }
};

// Activations of a tile; x is the row of the first tap of the first position, `step` the way to the next tap.
template <class T, int kWidth>
VT_INLINE void write_activations(const vt_tensor& out, const Taps& taps, const Row* x, int64_t step, const Task& task,
                                 int64_t l0, int64_t positions, int64_t width) {
  for (int64_t i = 0; i < positions; i++) {
    for (int64_t v = 0; v < task.vectors; v += kAtOnce) {
      Vec sum[kAtOnce], s[kAtOnce];
      correlate<kWidth>(sum, taps, x + i, step, v, width);
      sigmoid(sum, s);
      VT_UNROLL
      for (int k = 0; k < kAtOnce; k++) write_row<T>(out, task, l0 + i, v + k, sum[k] * s[k]);
    }
  }
}

template <class T, int kWidth>
VT_NOINLINE int32_t forward_tasks(const vt_conv_args& args, int64_t begin, int64_t end) {
  Arena arena;
  ForwardWork work;
  work.place(arena);
  if (!arena.allocate()) return VT_OUT_OF_MEMORY;
  work.place(arena);
  int64_t width = args.width, halo = width - 1;
  for (int64_t index = begin; index < end; index++) {
    Task task = task_of(args, index);
    work.taps[0].load_from(args.weight, args.bias, width, task);
    if (args.weight_b) work.taps[1].load_from(args.weight_b, args.bias_b, width, task);
    for (int64_t l0 = 0; l0 < args.length; l0 += kTile) {
      int64_t positions = smaller(kTile, args.length - l0);
      stage<T>(work.x, args, args.x, task, l0 - halo, positions + 2 * halo);
      write_activations<T, kWidth>(args.u, work.taps[0], work.x, 1, task, l0, positions, width);
      if (!args.weight_b) continue;
      write_activations<T, kWidth>(args.u_b, work.taps[1], work.x + 2 * halo, -1, task, l0, positions, width);
    }
  }
  return VT_OK;
}

template <class T>
VT_INLINE int32_t forward_range(const vt_conv_args& args, int64_t begin, int64_t end) {
  if (args.width == 4) return forward_tasks<T, 4>(args, begin, end);
  return forward_tasks<T, 0>(args, begin, end);
}

}  // namespace conv

static int32_t conv_forward(const vt_conv_args& args) {
  double nanoseconds = 1.5 * (double)(args.length * conv::kGroup);
  int64_t tasks = args.batch * conv::groups_of(args);
  return for_each_task(args.runtime.parallel_for, tasks, nanoseconds, [&](int64_t begin, int64_t end) {
    return with_dtype(args.dtype, [&](auto element) {
      return conv::forward_range<decltype(element)>(args, begin, end);
    });
  });
}

}  // namespace VT_ISA
}  // namespace vt
