// Depthwise convolution along the sequence, bias and SiLU, for both directions from one read of x.
//
// A task takes one sample and a group of channels through the sequence in tiles of positions. A tile's rows of x are
// converted to fp32 once, with width - 1 rows before and after it and zeros beyond the ends and the last channel, so
// that the loops over taps know no edges and no element types.
#pragma once

#include "../include/abi.h"
#include "memory.h"
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

}  // namespace conv
}  // namespace VT_ISA
}  // namespace vt
