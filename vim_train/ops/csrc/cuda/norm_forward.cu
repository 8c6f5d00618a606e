// Residual addition and RMSNorm, forward. See norm.cuh.
#include "kernels.cuh"
#include "norm.cuh"

namespace vt {
namespace {

using namespace norm;

template <class T, class Slab>
__global__ void __launch_bounds__(kThreads) norm_forward_kernel(vt_norm_args args, float inv_dim) {
  constexpr int kPack = Slab::kPack, kSteps = Slab::kSteps;
  int64_t row = (int64_t)blockIdx.x * kWarps + (int)threadIdx.x / 32, dim = args.dim;
  if (row >= args.rows) return;
  const T* hidden = (const T*)args.hidden + row * dim;
  const float* residual = args.residual ? args.residual + row * dim : nullptr;
  float* residual_out = args.residual_out + row * dim;
  T* normed = (T*)args.normed + row * dim;

  float sum[kSteps][kPack], squares = 0.0f;
  auto add = [&](int64_t slab) {
    Pack<T, kPack> addend[kSteps];
    Pack<float, kPack> before[kSteps] = {};
    Slab::load(addend, hidden, slab, dim);
    if (residual) Slab::load(before, residual, slab, dim);
#pragma unroll
    for (int step = 0; step < kSteps; step++) {
      float more[kPack];
      widen(sum[step], before[step]);
      widen(more, addend[step]);
#pragma unroll
      for (int c = 0; c < kPack; c++) sum[step][c] += more[c];
    }
  };

  Slab::for_each(dim, [&](int64_t slab) {
    add(slab);
#pragma unroll
    for (int step = 0; step < kSteps; step++) {
#pragma unroll
      for (int c = 0; c < kPack; c++) squares = fmaf(sum[step][c], sum[step][c], squares);
    }
  });
  float inv_rms = rsqrtf(sum_over_warp(squares) * inv_dim + args.eps);
  if (threadIdx.x % 32 == 0) args.inv_rms[row] = inv_rms;

  Slab::for_each(dim, [&](int64_t slab) {
    if (!Slab::kWhole) add(slab);
    Pack<float, kPack> weight[kSteps];
    Slab::load(weight, args.weight, slab, dim);
#pragma unroll
    for (int step = 0; step < kSteps; step++) {
      if (!Slab::has(slab, step, dim)) break;
      float scaled[kPack];
      widen(scaled, weight[step]);
#pragma unroll
      for (int c = 0; c < kPack; c++) scaled[c] *= sum[step][c] * inv_rms;
      store(residual_out + Slab::offset(slab, step), sum[step]);
      store(normed + Slab::offset(slab, step), scaled);
    }
  });
}

}  // namespace

int32_t norm_forward(const vt_norm_args& args) {
  return with_element(args.dtype, [&](auto element) {
    typedef decltype(element) T;
    bool aligned = packs_are_aligned<T, 4>(args.hidden) && packs_are_aligned<T, 4>(args.normed) &&
                   packs_are_aligned<float, 4>(args.residual) && packs_are_aligned<float, 4>(args.residual_out) &&
                   packs_are_aligned<float, 4>(args.weight);
    return with_slab(args.dim, aligned, [&](auto slab) {
      auto kernel = norm_forward_kernel<T, decltype(slab)>;
      return launch(args.runtime, kernel, divide_up(args.rows, kWarps), kThreads, 0, args,
                    1.0f / (float)args.dim);
    });
  });
}

}  // namespace vt
