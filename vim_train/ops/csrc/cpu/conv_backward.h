// Depthwise convolution and SiLU, backward.
#pragma once

#include "conv_tile.h"
#include "parallel.h"

namespace vt {
namespace VT_ISA {
namespace conv {

struct BackwardWork {
  Row* x;        // kRows
  Row* dsum[2];  // kTile + kMaxWidth - 1 each: gradients before the activation
  Taps* taps;
  Taps* dtaps;   // sums over the sequence

  void place(Arena& arena) {
    x = arena.take<Row>(kRows);
    for (int d = 0; d < 2; d++) dsum[d] = arena.take<Row>(kTile + kMaxWidth - 1);
    taps = arena.take<Taps>(2);
    dtaps = arena.take<Taps>(2);
  }
};

// Turns the staged gradients of activations into gradients before the activation.
template <int kWidth>
VT_INLINE void through_activation(Row* grad, const Taps& taps, const Row* x, int64_t step, const Task& task,
                                  int64_t positions, int64_t width) {
  const Vec one = broadcast(1.0f);
  for (int64_t i = 0; i < positions; i++) {
    for (int64_t v = 0; v < task.vectors; v += kAtOnce) {
      Vec sum[kAtOnce], s[kAtOnce];
      correlate<kWidth>(sum, taps, x + i, step, v, width);
      sigmoid(sum, s);
      VT_UNROLL
      for (int k = 0; k < kAtOnce; k++) grad[i][v + k] *= s[k] * fma(sum[k], one - s[k], one);
    }
  }
}

// Adds a tile's part of the gradients of taps and bias.
template <int kWidth>
VT_INLINE void add_tap_gradients(Taps& dtaps, const Row* dsum, const Row* x, int64_t step, const Task& task,
                                 int64_t positions, int64_t width) {
  constexpr int kTaps = kWidth ? kWidth : kMaxWidth;
  int64_t taps = kWidth ? kWidth : width;
  for (int64_t v = 0; v < task.vectors; v++) {
    Vec dweight[kTaps] = {}, dbias = dtaps.bias[v];
    VT_UNROLL
    for (int k = 0; k < taps; k++) dweight[k] = dtaps.weight[k][v];
    for (int64_t i = 0; i < positions; i++) {
      Vec d = dsum[i][v];
      dbias += d;
      VT_UNROLL
      for (int k = 0; k < taps; k++) dweight[k] = fma(d, x[i + k * step][v], dweight[k]);
    }
    dtaps.bias[v] = dbias;
    VT_UNROLL
    for (int k = 0; k < taps; k++) dtaps.weight[k][v] = dweight[k];
  }
}

// dx of a tile: each direction's taps against its dsum, which runs the other way.
template <class T, int kWidth>
VT_INLINE void write_input_gradient(const vt_conv_backward_args& args, const BackwardWork& work, const Task& task,
                                    int64_t l0, int64_t positions) {
  int64_t width = kWidth ? kWidth : args.forward.width, halo = width - 1;
  for (int64_t i = 0; i < positions; i++) {
    for (int64_t v = 0; v < task.vectors; v++) {
      Vec dx{};
      VT_UNROLL
      for (int k = 0; k < width; k++) dx = fma(work.taps[0].weight[k][v], work.dsum[0][i + halo - k][v], dx);
      if (args.forward.weight_b) {
        VT_UNROLL
        for (int k = 0; k < width; k++) dx = fma(work.taps[1].weight[k][v], work.dsum[1][i + k][v], dx);
      }
      write_row<T>(args.dx, task, l0 + i, v, dx);
    }
  }
}

template <class T, int kWidth>
VT_INLINE void backward_tile(const vt_conv_backward_args& args, BackwardWork& work, const Task& task, int64_t l0) {
  const vt_conv_args& forward = args.forward;
  int64_t width = forward.width, halo = width - 1;
  int64_t positions = smaller(kTile, forward.length - l0), with_halo = positions + halo;
  stage<T>(work.x, forward, forward.x, task, l0 - halo, positions + 2 * halo);

  // Causal: dx at l needs dsum at l ... l + halo; position l0 + i has its first tap in row i.
  stage<T>(work.dsum[0], forward, args.du, task, l0, with_halo);
  through_activation<kWidth>(work.dsum[0], work.taps[0], work.x, 1, task, with_halo, width);
  add_tap_gradients<kWidth>(work.dtaps[0], work.dsum[0], work.x, 1, task, positions, width);
  if (forward.weight_b) {
    // Anti-causal: dx at l needs dsum at l - halo ... l; position l0 - halo + i has its first tap in row i + halo.
    stage<T>(work.dsum[1], forward, args.du_b, task, l0 - halo, with_halo);
    through_activation<kWidth>(work.dsum[1], work.taps[1], work.x + halo, -1, task, with_halo, width);
    add_tap_gradients<kWidth>(work.dtaps[1], work.dsum[1] + halo, work.x + 2 * halo, -1, task, positions, width);
  }
  write_input_gradient<T, kWidth>(args, work, task, l0, positions);
}

// [direction][batch]: weights as (channels, width), then biases.
struct Partials {
  float* sums;

  static int64_t size(const vt_conv_args& args) { return args.channels * (args.width + 1); }
  static int directions(const vt_conv_args& args) { return args.weight_b ? 2 : 1; }
  void place(Arena& arena, const vt_conv_args& args) {
    sums = arena.take<float>(directions(args) * args.batch * size(args));
  }
  float* of(const vt_conv_args& args, int d, int64_t batch) const {
    return sums + (d * args.batch + batch) * size(args);
  }

  void store(const vt_conv_args& args, int d, const Task& task, const Taps& dtaps) const {
    float* weights = of(args, d, task.batch) + task.channel * args.width;
    float* biases = of(args, d, task.batch) + args.channels * args.width + task.channel;
    for (int64_t i = 0; i < task.channels; i++) {
      for (int64_t k = 0; k < args.width; k++) weights[i * args.width + k] = ((const float*)dtaps.weight[k])[i];
      biases[i] = ((const float*)dtaps.bias)[i];
    }
  }
};

template <class T, int kWidth>
VT_NOINLINE int32_t backward_tasks(const vt_conv_backward_args& args, const Partials& partials, int64_t begin,
                                   int64_t end) {
  const vt_conv_args& forward = args.forward;
  Arena arena;
  BackwardWork work;
  work.place(arena);
  if (!arena.allocate()) return VT_OUT_OF_MEMORY;
  work.place(arena);
  for (int64_t index = begin; index < end; index++) {
    Task task = task_of(forward, index);
    work.taps[0].load_from(forward.weight, forward.bias, forward.width, task);
    if (forward.weight_b) work.taps[1].load_from(forward.weight_b, forward.bias_b, forward.width, task);
    memset(work.dtaps, 0, 2 * sizeof(Taps));
    for (int64_t l0 = 0; l0 < forward.length; l0 += kTile) backward_tile<T, kWidth>(args, work, task, l0);
    for (int d = 0; d < Partials::directions(forward); d++) partials.store(forward, d, task, work.dtaps[d]);
  }
  return VT_OK;
}

VT_INLINE void sum_batch(float* to, const vt_conv_args& args, const Partials& partials, int d, int64_t offset,
                         int64_t size) {
  if (!to) return;
  memset(to, 0, sizeof(float) * (size_t)size);
  for (int64_t batch = 0; batch < args.batch; batch++) add_run(to, partials.of(args, d, batch) + offset, size);
}

template <class T>
VT_INLINE int32_t backward_range(const vt_conv_backward_args& args, const Partials& partials, int64_t begin,
                                 int64_t end) {
  if (args.forward.width == 4) return backward_tasks<T, 4>(args, partials, begin, end);
  return backward_tasks<T, 0>(args, partials, begin, end);
}

}  // namespace conv

static int32_t conv_backward(const vt_conv_backward_args& args) {
  const vt_conv_args& forward = args.forward;
  Arena arena;
  conv::Partials partials;
  partials.place(arena, forward);
  if (!arena.allocate()) return VT_OUT_OF_MEMORY;
  partials.place(arena, forward);

  double nanoseconds = 3.0 * (double)(forward.length * conv::kGroup);
  int64_t tasks = forward.batch * conv::groups_of(forward);
  auto run = [&](int64_t begin, int64_t end) {
    return with_dtype(forward.dtype, [&](auto element) {
      return conv::backward_range<decltype(element)>(args, partials, begin, end);
    });
  };
  int32_t status = for_each_task(forward.runtime.parallel_for, tasks, nanoseconds, run);
  if (status != VT_OK) return status;

  int64_t weights = forward.channels * forward.width;
  conv::sum_batch(args.dweight, forward, partials, 0, 0, weights);
  conv::sum_batch(args.dbias, forward, partials, 0, weights, forward.channels);
  if (forward.weight_b) {
    conv::sum_batch(args.dweight_b, forward, partials, 1, 0, weights);
    conv::sum_batch(args.dbias_b, forward, partials, 1, weights, forward.channels);
  }
  return VT_OK;
}

}  // namespace VT_ISA
}  // namespace vt
