// Depthwise convolution and SiLU, backward. See conv.cuh.
//
// With g the gradient before the activation, dx at l is made of g[l ... l + taps - 1] and g_b[l - taps + 1 ... l]. So
// step l makes g at the last and g_b at the first of its rows, and then has all that dx at l needs from the steps
// before it; a strip therefore begins some tiles early. Gradients of weights and biases are summed over a strip in
// registers, over the strips of a block in shared memory, and over blocks by sum.cuh.
#include "conv.cuh"
#include "kernels.cuh"
#include "sum.cuh"

namespace vt {
namespace {

using namespace conv;

// Columns of the partial sums: [direction][weight 0 ... width - 1, bias][channel].
struct Columns {
  int64_t channels, width;

  __host__ __device__ int64_t of(int direction, int64_t k) const { return (direction * (width + 1) + k) * channels; }
  __host__ __device__ int64_t count(int directions) const { return of(directions, 0); }
};

struct StoreSums {
  Columns columns;
  float *weight, *bias, *weight_b, *bias_b;

  __device__ void operator()(int64_t column, float sum) const {
    int64_t channel = column % columns.channels, row = column / columns.channels;
    bool second = row > columns.width;
    int64_t k = second ? row - (columns.width + 1) : row;
    float* to = second ? weight_b : weight;
    float* to_bias = second ? bias_b : bias;
    if (k < columns.width) {
      to[channel * columns.width + k] = sum;
    } else if (to_bias) {
      to_bias[channel] = sum;
    }
  }
};

// What a strip sums for a pack of channels in one direction, in the order of Taps.
template <int kPack, int kTaps>
struct TapSums {
  float row[kTaps + 1][kPack];  // the last is the bias's

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int j = 0; j <= kTaps; j++) {
#pragma unroll
      for (int c = 0; c < kPack; c++) row[j][c] = 0.0f;
    }
  }

  __device__ __forceinline__ void add(const float (&g)[kPack], const float (*x)[kPack]) {
#pragma unroll
    for (int c = 0; c < kPack; c++) {
#pragma unroll
      for (int j = 0; j < kTaps; j++) row[j][c] = fmaf(g[c], x[j][c], row[j][c]);
      row[kTaps][c] += g[c];
    }
  }
};

// What a strip holds in registers: rows of x and of g of one tile, and kHalo before them.
template <class T, int kPack, int kTaps>
struct Strip {
  static constexpr int kHalo = kTaps - 1, kEarly = (kHalo + kTile - 1) / kTile * kTile;

  Taps<kPack, kTaps> taps[2];
  TapSums<kPack, kTaps> sums[2];
  float rows[kHalo + kTile][kPack], g[2][kHalo + kTile][kPack];

  __device__ __forceinline__ void clear_sums() {
    sums[0].clear();
    sums[1].clear();
  }

  __device__ __forceinline__ void start(const vt_conv_args& args, const Pack<T, kPack> (&before)[kHalo],
                                        int64_t channel) {
    taps[0].load(0, args.weight, args.bias, channel, (int)args.width);
    taps[1].load(1, args.weight_b, args.bias_b, channel, (int)args.width);
#pragma unroll
    for (int i = 0; i < kHalo; i++) {
      widen(rows[i], before[i]);
#pragma unroll
      for (int c = 0; c < kPack; c++) g[0][i][c] = g[1][i][c] = 0.0f;
    }
  }

  // A step of direction d: its g, and what that adds to the sums and to dx.
  __device__ __forceinline__ void step(float (&dx)[kPack], int d, int i, const Pack<T, kPack>& dout, int width) {
    float sum[kPack], grad[kPack];
    taps[d].correlate(sum, rows + i, d, width);
    widen(grad, dout);
#pragma unroll
    for (int c = 0; c < kPack; c++) {
      float s = sigmoid(sum[c]);
      g[d][kHalo + i][c] = grad[c] * s * fmaf(sum[c], 1.0f - s, 1.0f);
    }
    sums[d].add(g[d][kHalo + i], rows + i);
#pragma unroll
    for (int j = 0; j < kTaps; j++) {
      if (!has_weight<kTaps>(d, j, width)) continue;
#pragma unroll
      for (int c = 0; c < kPack; c++) dx[c] = fmaf(taps[d].weight[j][c], g[d][kHalo + i - j][c], dx[c]);
    }
  }

  __device__ __forceinline__ void finish_tile() {
    move_to_front<kPack, kHalo>(rows);
    move_to_front<kPack, kHalo>(g[0]);
    move_to_front<kPack, kHalo>(g[1]);
  }
};

template <class T, int kPack, int kTaps>
__device__ __forceinline__ void walk(Strip<T, kPack, kTaps>& strip, const vt_conv_backward_args& args,
                                     const Place& place, int steps) {
  constexpr int kHalo = Strip<T, kPack, kTaps>::kHalo, kEarly = Strip<T, kPack, kTaps>::kEarly;
  const vt_conv_args& forward = args.forward;
  const T* x = row_of<const T>(forward.x, place.batch, place.first - kEarly) + place.channel;
  const T* du = row_of<const T>(args.du, place.batch, place.first - kEarly + kHalo) + place.channel;
  const T* du_b = row_of<const T>(args.du_b, place.batch, place.first - kEarly) + place.channel;
  T* to = row_of<T>(args.dx, place.batch, place.first) + place.channel;

  Pack<T, kPack> before[kHalo];
  load_rows(before, x, forward.x.stride_len, place.begin + kEarly, place.end + kEarly);
  x += kHalo * forward.x.stride_len;
  strip.start(forward, before, place.channel);
  for (int l = -kEarly; l < steps && l < place.end; l += kTile) {
    Pack<T, kPack> x_tile[kTile], dout[2][kTile];
    int begin = place.begin - l, end = place.end - l;
    load_rows(x_tile, x, forward.x.stride_len, begin - kHalo, end - kHalo);
    load_rows(dout[0], du, args.du.stride_len, begin - kHalo, end - kHalo);
    if (forward.weight_b) load_rows(dout[1], du_b, args.du_b.stride_len, begin, end);
    x += kTile * forward.x.stride_len;
    du += kTile * args.du.stride_len;
    du_b += kTile * args.du_b.stride_len;
    if (l == 0 && place.first > 0) strip.clear_sums();  // the steps so far are counted by the strip before

    float dx[kTile][kPack] = {};
#pragma unroll
    for (int i = 0; i < kTile; i++) widen(strip.rows[kHalo + i], x_tile[i]);
#pragma unroll
    for (int d = 0; d < 2; d++) {
      if (d == 1 && !forward.weight_b) continue;
#pragma unroll
      for (int i = 0; i < kTile; i++) strip.step(dx[i], d, i, dout[d][i], (int)forward.width);
    }
#pragma unroll
    for (int i = 0; i < kTile; i++) {
      if (l >= 0 && i < end) store(to + i * args.dx.stride_len, dx[i]);
    }
    if (l >= 0) to += kTile * args.dx.stride_len;
    strip.finish_tile();
  }
}

// Adds up the strips of the block and leaves the sums in the workspace's row of it.
template <int kPack, int kTaps>
__device__ __forceinline__ void write_partials(float* partials, const TapSums<kPack, kTaps> (&sums)[2],
                                               const vt_conv_args& args, const Strips& strips, const Place& place) {
  constexpr int kRows = 2 * (kTaps + 1), kChannels = 32 * kPack;
  extern __shared__ __align__(16) unsigned char shared[];
  float* strip_sums = (float*)shared;  // [kWarps][kRows][kChannels]
#pragma unroll
  for (int j = 0; j < kRows; j++) {
    float* to = strip_sums + (place.warp * kRows + j) * kChannels + place.lane * kPack;
#pragma unroll
    for (int c = 0; c < kPack; c++) to[c] = sums[j / (kTaps + 1)].row[j % (kTaps + 1)][c];
  }
  __syncthreads();

  int directions = args.weight_b ? 2 : 1, width = (int)args.width;
  Columns columns = {args.channels, args.width};
  float* to = partials + (place.batch * strips.groups + place.group) * columns.count(directions);
  int64_t block_channel = place.channel - place.lane * kPack;
  for (int index = (int)threadIdx.x; index < directions * (kTaps + 1) * kChannels; index += kThreads) {
    int row = index / kChannels, direction = row / (kTaps + 1), j = row % (kTaps + 1);
    int64_t channel = block_channel + index % kChannels;
    bool bias = j == kTaps;
    if (channel >= args.channels || !(bias || has_weight<kTaps>(direction, j, width))) continue;
    float sum = 0.0f;
#pragma unroll
    for (int warp = 0; warp < kWarps; warp++) sum += strip_sums[warp * kRows * kChannels + index];
    to[columns.of(direction, bias ? width : weight_index<kTaps>(direction, j, width)) + channel] = sum;
  }
}

template <class T, int kPack, int kTaps>
__global__ void __launch_bounds__(kThreads) conv_backward_kernel(vt_conv_backward_args args, Strips strips,
                                                                 float* partials) {
  Place place = place_of_thread<kPack>(args.forward, strips, 0);
  Strip<T, kPack, kTaps> strip;
  strip.clear_sums();
  if (place.channel < args.forward.channels && place.end > 0) walk(strip, args, place, (int)strips.steps);
  write_partials(partials, strip.sums, args.forward, strips, place);
}

int64_t partial_rows(const vt_conv_args& args) { return args.batch * Strips(args.length).groups; }

float* take_partials(Workspace& workspace, const vt_conv_args& args) {
  Columns columns = {args.channels, args.width};
  return workspace.take<float>(partial_rows(args) * columns.count(args.weight_b ? 2 : 1));
}

template <class T, int kPack, int kTaps>
int32_t run(const vt_conv_backward_args& args, float* partials) {
  constexpr int kSharedBytes = kWarps * 2 * (kTaps + 1) * 32 * kPack * (int)sizeof(float);
  static_assert(kSharedBytes <= kMaxSharedBytes, "the sums of a block's strips");
  Strips strips(args.forward.length);
  int64_t blocks = args.forward.batch * strips.groups * channel_blocks(args.forward.channels, kPack);
  return launch(args.forward.runtime, conv_backward_kernel<T, kPack, kTaps>, blocks, kThreads, kSharedBytes, args,
                strips, partials);
}

}  // namespace

int64_t conv_backward_workspace(const vt_conv_backward_args& args) {
  Workspace workspace = {nullptr};
  take_partials(workspace, args.forward);
  return workspace.bytes;
}

int32_t conv_backward(const vt_conv_backward_args& args) {
  const vt_conv_args& forward = args.forward;
  Workspace workspace = {(char*)forward.runtime.workspace};
  float* partials = take_partials(workspace, forward);
  int32_t status = with_element(forward.dtype, [&](auto element) {
    typedef decltype(element) T;
    if (forward.width != 4) return run<T, 1, VT_MAX_CONV_WIDTH>(args, partials);
    bool pairs = pairs_are_aligned<T>(forward, forward.x, args.du, args.du_b, args.dx);
    return pairs ? run<T, 2, 4>(args, partials) : run<T, 1, 4>(args, partials);
  });
  if (status != VT_OK) return status;
  Columns columns = {forward.channels, forward.width};
  StoreSums store = {columns, args.dweight, args.dbias, args.dweight_b, args.dbias_b};
  return sum_rows(forward.runtime, partials, partial_rows(forward), columns.count(forward.weight_b ? 2 : 1), store);
}

}  // namespace vt
