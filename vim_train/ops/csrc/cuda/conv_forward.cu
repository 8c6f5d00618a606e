// Depthwise convolution and SiLU, forward. See conv.cuh.
#include "conv.cuh"
#include "kernels.cuh"

namespace vt {
namespace {

using namespace conv;

template <class T, int kPack, int kTaps>
__global__ void __launch_bounds__(kThreads) conv_forward_kernel(vt_conv_args args, Strips strips) {
  constexpr int kHalo = kTaps - 1;
  // Steps begin before the sequence, so that the first u are made too.
  Place place = place_of_thread<kPack>(args, strips, -kHalo);
  if (place.channel >= args.channels) return;
  int width = (int)args.width, steps = (int)strips.steps;
  Taps<kPack, kTaps> taps[2];
  taps[0].load(0, args.weight, args.bias, place.channel, width);
  taps[1].load(1, args.weight_b, args.bias_b, place.channel, width);

  const T* x = row_of<const T>(args.x, place.batch, place.first) + place.channel;
  T* out[2] = {row_of<T>(args.u, place.batch, place.first + kHalo) + place.channel,
               row_of<T>(args.u_b, place.batch, place.first) + place.channel};
  int last = steps + kHalo < place.end ? steps + kHalo : place.end;  // the end of the rows that the strip reads
  float rows[kHalo + kTile][kPack];
  Pack<T, kPack> before[kHalo], next[kTile];
  load_rows(before, x, args.x.stride_len, place.begin, last);
  x += kHalo * args.x.stride_len;
  load_rows(next, x, args.x.stride_len, 0, last - kHalo);
#pragma unroll
  for (int i = 0; i < kHalo; i++) widen(rows[i], before[i]);

  for (int l = 0; l < steps && l < place.end; l += kTile) {
#pragma unroll
    for (int i = 0; i < kTile; i++) widen(rows[kHalo + i], next[i]);
    x += kTile * args.x.stride_len;
    load_rows(next, x, args.x.stride_len, 0, last - kHalo - kTile - l);
#pragma unroll
    for (int d = 0; d < 2; d++) {
      if (d == 1 && !args.weight_b) continue;
      int64_t stride = d == 0 ? args.u.stride_len : args.u_b.stride_len;
      int begin = d == 0 ? 0 : place.begin - l, end = d == 0 ? place.end - kHalo - l : place.end - l;
#pragma unroll
      for (int i = 0; i < kTile; i++) {
        float sum[kPack];
        taps[d].correlate(sum, rows + i, d, width);
#pragma unroll
        for (int c = 0; c < kPack; c++) sum[c] *= sigmoid(sum[c]);
        if (begin <= i && i < end) store(out[d], sum);
        out[d] += stride;
      }
    }
    move_to_front<kPack, kHalo>(rows);
  }
}

template <class T, int kPack, int kTaps>
int32_t run(const vt_conv_args& args) {
  Strips strips(args.length + kTaps - 1);
  int64_t blocks = args.batch * strips.groups * channel_blocks(args.channels, kPack);
  return launch(args.runtime, conv_forward_kernel<T, kPack, kTaps>, blocks, kThreads, 0, args, strips);
}

}  // namespace

int32_t conv_forward(const vt_conv_args& args) {
  return with_element(args.dtype, [&](auto element) {
    typedef decltype(element) T;
    if (args.width != 4) return run<T, 1, VT_MAX_CONV_WIDTH>(args);
    return pairs_are_aligned<T>(args, args.x, args.u, args.u_b) ? run<T, 2, 4>(args) : run<T, 1, 4>(args);
  });
}

}  // namespace vt
