// Depthwise convolution along the sequence, bias and SiLU, for both directions from one read of x.
//
// A task takes one sample and a group of channels through the sequence in tiles of positions. A tile's rows of x are
// converted to fp32 once, with kWidth - 1 rows before and after it and zeros beyond the ends and the last channel, so
// that the loops over taps know no edges and no element types.
#pragma once

#include "../include/abi.h"
#include "memory.h"
#include "parallel.h"
#include "vector_math.h"

namespace vt {
namespace VT_ISA {
namespace conv {

constexpr int kMaxWidth = 8;
constexpr int kTile = 32;                        // positions
constexpr int kGroup = 96;                       // channels
constexpr int kGroupVectors = kGroup / kLanes;
constexpr int kRows = kTile + 2 * (kMaxWidth - 1);
constexpr int kAtOnce = 3;                       // vectors that go through the activation together
static_assert(kGroup % (kAtOnce * kLanes) == 0, "a group is whole sets of vectors");

typedef Vec Row[kGroupVectors];

struct Task {
  int64_t batch, channel, channels;
  int64_t vectors;  // enough for the channels, and a multiple of kAtOnce

  int64_t lanes(int64_t v) const { return channels - v * kLanes; }
};

VT_INLINE int64_t groups_of(const vt_conv_args& args) { return divide_up(args.channels, kGroup); }

VT_INLINE Task task_of(const vt_conv_args& args, int64_t index) {
  int64_t groups = groups_of(args), channel = index % groups * kGroup;
  int64_t channels = smaller(kGroup, args.channels - channel);
  return {index / groups, channel, channels, round_up(divide_up(channels, kLanes), kAtOnce)};
}

// Rows first ... first + count - 1 of a tensor as fp32; rows outside the sequence are zeros.
template <class T>
VT_INLINE void stage(Row* to, const vt_conv_args& args, const vt_tensor& from, const Task& task, int64_t first,
                     int64_t count) {
  const T* base = (const T*)from.data + task.batch * from.stride_batch + task.channel;
  for (int64_t i = 0; i < count; i++) {
    int64_t l = first + i;
    bool inside = l >= 0 && l < args.length;
    for (int64_t v = 0; v < task.vectors; v++) {
      to[i][v] = inside ? load_partial(base + l * from.stride_len + v * kLanes, task.lanes(v)) : Vec{};
    }
  }
}

template <class T>
VT_INLINE void write_row(const vt_tensor& to, const Task& task, int64_t l, int64_t v, Vec x) {
  T* row = (T*)to.data + task.batch * to.stride_batch + l * to.stride_len + task.channel;
  store_partial(row + v * kLanes, x, task.lanes(v));
}

// The taps of one direction, channels in lanes.
struct Taps {
  Row weight[kMaxWidth];
  Row bias;

  void load_from(const float* weights, const float* biases, int64_t width, const Task& task) {
    memset(this, 0, sizeof *this);
    for (int64_t i = 0; i < task.channels; i++) {
      for (int64_t k = 0; k < width; k++) ((float*)weight[k])[i] = weights[(task.channel + i) * width + k];
      if (biases) ((float*)bias)[i] = biases[task.channel + i];
    }
  }
};

// bias + sum over k of weight[k] x[k step], before the activation, for the vectors from v on. kWidth 0: the width is
// known only at run time.
template <int kWidth>
VT_INLINE void correlate(Vec (&sum)[kAtOnce], const Taps& taps, const Row* x, int64_t step, int64_t v, int64_t width) {
  VT_UNROLL
  for (int i = 0; i < kAtOnce; i++) sum[i] = taps.bias[v + i];
  auto add_tap = [&](int64_t k) {
    VT_UNROLL
    for (int i = 0; i < kAtOnce; i++) sum[i] = fma(taps.weight[k][v + i], x[k * step][v + i], sum[i]);
  };
  if (kWidth) {
    VT_UNROLL
    for (int k = 0; k < kWidth; k++) add_tap(k);
  } else {
    for (int64_t k = 0; k < width; k++) add_tap(k);
  }
}

// ---- forward -------------------------------------------------------------------------------------------------------

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

// ---- backward ------------------------------------------------------------------------------------------------------

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
  float* of(const vt_conv_args& args, int d, int64_t batch) const { return sums + (d * args.batch + batch) * size(args); }
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
    for (int d = 0; d < Partials::directions(forward); d++) {
      float* weights = partials.of(forward, d, task.batch) + task.channel * forward.width;
      float* biases = partials.of(forward, d, task.batch) + forward.channels * forward.width + task.channel;
      for (int64_t i = 0; i < task.channels; i++) {
        for (int64_t k = 0; k < forward.width; k++) {
          weights[i * forward.width + k] = ((const float*)work.dtaps[d].weight[k])[i];
        }
        biases[i] = ((const float*)work.dtaps[d].bias)[i];
      }
    }
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

template <class T>
VT_INLINE int32_t forward_range(const vt_conv_args& args, int64_t begin, int64_t end) {
  if (args.width == 4) return forward_tasks<T, 4>(args, begin, end);
  return forward_tasks<T, 0>(args, begin, end);
}

}  // namespace conv

static int32_t conv_forward(const vt_conv_args& args) {
  double nanoseconds = 1.5 * (double)(args.length * conv::kGroup);
  return for_each_task(args.parallel_for, args.batch * conv::groups_of(args), nanoseconds,
                       [&](int64_t begin, int64_t end) {
                         switch (args.dtype) {
                           case VT_F32:
                             return conv::forward_range<float>(args, begin, end);
                           case VT_BF16:
                             return conv::forward_range<BFloat16>(args, begin, end);
                           default:
                             return conv::forward_range<Float16>(args, begin, end);
                         }
                       });
}

static int32_t conv_backward(const vt_conv_backward_args& args) {
  const vt_conv_args& forward = args.forward;
  Arena arena;
  conv::Partials partials;
  partials.place(arena, forward);
  if (!arena.allocate()) return VT_OUT_OF_MEMORY;
  partials.place(arena, forward);

  double nanoseconds = 3.0 * (double)(forward.length * conv::kGroup);
  int32_t status = for_each_task(forward.parallel_for, forward.batch * conv::groups_of(forward), nanoseconds,
                                 [&](int64_t begin, int64_t end) {
                                   switch (forward.dtype) {
                                     case VT_F32:
                                       return conv::backward_range<float>(args, partials, begin, end);
                                     case VT_BF16:
                                       return conv::backward_range<BFloat16>(args, partials, begin, end);
                                     default:
                                       return conv::backward_range<Float16>(args, partials, begin, end);
                                   }
                                 });
  int64_t weights = forward.channels * forward.width;
  conv::sum_batch(args.dweight, forward, partials, 0, 0, weights);
  conv::sum_batch(args.dbias, forward, partials, 0, weights, forward.channels);
  if (forward.weight_b) {
    conv::sum_batch(args.dweight_b, forward, partials, 1, 0, weights);
    conv::sum_batch(args.dbias_b, forward, partials, 1, weights, forward.channels);
  }
  return status;
}

}  // namespace VT_ISA
}  // namespace vt
