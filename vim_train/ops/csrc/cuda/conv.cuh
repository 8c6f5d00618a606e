// Depthwise convolution along the sequence, bias and SiLU, for both directions from one read of x.
//
// A lane owns a pack of channels and a warp walks a strip of steps. At step l it holds the rows x[l ... l + taps - 1]
// in registers: u at their last and u_b at their first are made of just these rows. So the directions differ only in
// the order of their weights and in the row to which a step belongs.
//
// There are kernels for a width of kTaps = 4, and for any width up to kTaps = 8: they skip the taps it lacks, as a zero
// weight would carry NaN to outputs that do not depend on it.
#pragma once

#include "launch.cuh"
#include "math.cuh"
#include "pack.cuh"

namespace vt {
namespace conv {

constexpr int kWarps = 8;  // strips of a block, of the same channels
constexpr int kThreads = 32 * kWarps;
constexpr int kTile = 4;   // steps, whose rows are loaded together

// How steps are dealt out: to strips of whole tiles, and to groups of as many strips as a block has warps.
struct Strips {
  int64_t steps, groups;

  explicit Strips(int64_t length) {
    int64_t even = divide_up(divide_up(length, kWarps), kTile) * kTile;
    steps = even < 32 ? 32 : even > 64 ? 64 : even;
    groups = divide_up(length, kWarps * steps);
  }
};

// Where a thread works. Positions are counted from the strip's first; `begin` and `end` are those of the sequence, or
// as far off as no strip reaches.
struct Place {
  int64_t batch, group, first, channel;
  int warp, lane, begin, end;
};

__host__ __device__ __forceinline__ int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

__host__ __device__ __forceinline__ int64_t channel_blocks(int64_t channels, int pack) {
  return divide_up(channels, 32 * pack);
}

template <int kPack>
__device__ __forceinline__ Place place_of_thread(const vt_conv_args& args, const Strips& strips, int64_t shift) {
  constexpr int64_t kFar = 128;
  uint32_t blocks = (uint32_t)channel_blocks(args.channels, kPack), groups = (uint32_t)strips.groups;
  uint32_t block = blockIdx.x % blocks, row = blockIdx.x / blocks;
  Place place;
  place.batch = row / groups;
  place.group = row % groups;
  place.warp = (int)threadIdx.x / 32;
  place.lane = (int)threadIdx.x % 32;
  place.channel = ((int64_t)block * 32 + place.lane) * kPack;
  place.first = (place.group * kWarps + place.warp) * strips.steps + shift;
  place.begin = (int)-smaller(place.first, kFar);
  place.end = (int)smaller(args.length - place.first, kFar);
  return place;
}

// The weight of the step's j-th row, of `width`; where it is outside [0, width) there is none.
template <int kTaps>
__device__ __forceinline__ int weight_index(int direction, int j, int width) {
  return direction == 0 ? j - (kTaps - width) : width - 1 - j;
}

template <int kTaps>
__device__ __forceinline__ bool has_weight(int direction, int j, int width) {
  if (kTaps == 4) return true;  // the kernel for this width alone
  int k = weight_index<kTaps>(direction, j, width);
  return 0 <= k && k < width;
}

// Weights and bias of a pack of channels in one direction; weights in the order of a step's rows.
template <int kPack, int kTaps>
struct Taps {
  float weight[kTaps][kPack];
  float bias[kPack];

  __device__ __forceinline__ void load(int direction, const float* weights, const float* biases, int64_t channel,
                                       int width) {
#pragma unroll
    for (int c = 0; c < kPack; c++) {
#pragma unroll
      for (int j = 0; j < kTaps; j++) {
        bool present = weights && has_weight<kTaps>(direction, j, width);
        int64_t at = (channel + c) * width + weight_index<kTaps>(direction, j, width);
        weight[j][c] = present ? __ldg(weights + at) : 0.0f;
      }
      bias[c] = biases ? __ldg(biases + channel + c) : 0.0f;
    }
  }

  // Before the activation.
  __device__ __forceinline__ void correlate(float (&sum)[kPack], const float (*rows)[kPack], int direction,
                                            int width) const {
#pragma unroll
    for (int c = 0; c < kPack; c++) sum[c] = bias[c];
#pragma unroll
    for (int j = 0; j < kTaps; j++) {
      if (!has_weight<kTaps>(direction, j, width)) continue;
#pragma unroll
      for (int c = 0; c < kPack; c++) sum[c] = fmaf(weight[j][c], rows[j][c], sum[c]);
    }
  }
};

// The rows from `row` on of which those from `begin` to `end` exist; the others are zeros.
template <class T, int kPack, int kCount>
__device__ __forceinline__ void load_rows(Pack<T, kPack> (&rows)[kCount], const T* row, int64_t stride, int begin,
                                          int end) {
#pragma unroll
  for (int i = 0; i < kCount; i++) {
    rows[i] = {};
    if (begin <= i && i < end) rows[i] = load_constant<kPack>(row);
    row += stride;
  }
}

// The last kCount rows of a tile's come first in the next one's.
template <int kPack, int kCount>
__device__ __forceinline__ void move_to_front(float (&rows)[kCount + kTile][kPack]) {
#pragma unroll
  for (int i = 0; i < kCount; i++) {
#pragma unroll
    for (int c = 0; c < kPack; c++) rows[i][c] = rows[i + kTile][c];
  }
}

// Whether packs of two channels are aligned in every tensor.
template <class T, class... Tensors>
bool pairs_are_aligned(const vt_conv_args& args, const Tensors&... tensors) {
  bool aligned = args.channels % 2 == 0;
  const vt_tensor* all[] = {&tensors...};
  for (const vt_tensor* tensor : all) aligned = aligned && packs_are_aligned<T, 2>(*tensor);
  return aligned;
}

}  // namespace conv
}  // namespace vt
