// Residual addition and RMSNorm, backward. See norm.cuh.
//
// With xhat = x inv_rms: dx = inv_rms (w dy - xhat mean(w dy xhat)) + the gradient of residual_out; dw = sum of dy xhat
// over the rows. A block takes some rows and leaves their part of dw in the workspace, for sum.cuh to add up.
#include "kernels.cuh"
#include "norm.cuh"
#include "sum.cuh"

namespace vt {
namespace {

using namespace norm;

// How rows are dealt out to blocks.
struct Rows {
  int64_t of_block, blocks;

  explicit Rows(int64_t rows) {
    int64_t even = divide_up(divide_up(rows, 1024), kWarps) * kWarps;
    of_block = even < 2 * kWarps ? 2 * kWarps : even > 4096 ? 4096 : even;
    blocks = divide_up(rows, of_block);
  }
};

// What the gradients of a pack are made of.
template <int kPack>
struct Elements {
  float dy[kPack], weighted_dy[kPack], xhat[kPack];

  template <class T>
  __device__ __forceinline__ Elements(const Pack<T, kPack>& dnormed, const Pack<float, kPack>& x,
                                      const Pack<float, kPack>& weight, float inv_rms) {
    widen(dy, dnormed);
    widen(xhat, x);
    widen(weighted_dy, weight);
#pragma unroll
    for (int c = 0; c < kPack; c++) {
      xhat[c] *= inv_rms;
      weighted_dy[c] *= dy[c];
    }
  }

  __device__ __forceinline__ void add_dot(float& dot) const {
#pragma unroll
    for (int c = 0; c < kPack; c++) dot = fmaf(weighted_dy[c], xhat[c], dot);
  }

  __device__ __forceinline__ void add_dweight(float (&dweight)[kPack]) const {
#pragma unroll
    for (int c = 0; c < kPack; c++) dweight[c] = fmaf(dy[c], xhat[c], dweight[c]);
  }

  __device__ __forceinline__ void store_gradient(float* to, const Pack<float, kPack>& dresidual_out, float inv_rms,
                                                 float mean) const {
    float dx[kPack];
    widen(dx, dresidual_out);
#pragma unroll
    for (int c = 0; c < kPack; c++) dx[c] = fmaf(inv_rms, weighted_dy[c] - xhat[c] * mean, dx[c]);
    store(to, dx);
  }
};

// A warp keeps a row, and its part of dw, in registers.
template <class T, class Slab>
__global__ void __launch_bounds__(kThreads, 1) norm_backward_kernel(vt_norm_backward_args args, float inv_dim,
                                                                    Rows rows, float* partials) {
  constexpr int kPack = Slab::kPack, kSteps = Slab::kSteps;
  extern __shared__ __align__(16) unsigned char shared[];
  float* warp_sums = (float*)shared;  // [kWarps][dim]
  int warp = (int)threadIdx.x / 32, dim = (int)args.forward.dim;
  int64_t first = blockIdx.x * rows.of_block, end = first + rows.of_block;
  if (end > args.forward.rows) end = args.forward.rows;

  float dweight[kSteps][kPack] = {};
  for (int64_t row = first + warp; row < end; row += kWarps) {
    Pack<T, kPack> dnormed[kSteps];
    Pack<float, kPack> x[kSteps], weight[kSteps], dresidual_out[kSteps] = {};
    float inv_rms = __ldg(args.forward.inv_rms + row), dot = 0.0f;
    Slab::load(dnormed, (const T*)args.dnormed + row * dim, 0, dim);
    Slab::load(x, args.forward.residual_out + row * dim, 0, dim);
    Slab::load(weight, args.forward.weight, 0, dim);
    if (args.dresidual_out) Slab::load(dresidual_out, args.dresidual_out + row * dim, 0, dim);
#pragma unroll
    for (int step = 0; step < kSteps; step++) {
      Elements<kPack> elements(dnormed[step], x[step], weight[step], inv_rms);
      elements.add_dweight(dweight[step]);
      elements.add_dot(dot);
    }
    float mean = sum_over_warp(dot) * inv_dim;
#pragma unroll
    for (int step = 0; step < kSteps; step++) {
      if (!Slab::has(0, step, dim)) break;
      Elements<kPack> elements(dnormed[step], x[step], weight[step], inv_rms);
      elements.store_gradient(args.dresidual + row * dim + Slab::offset(0, step), dresidual_out[step], inv_rms, mean);
    }
  }

#pragma unroll
  for (int step = 0; step < kSteps; step++) {
    if (Slab::has(0, step, dim)) store(warp_sums + warp * dim + Slab::offset(0, step), dweight[step]);
  }
  __syncthreads();
  for (int i = (int)threadIdx.x; i < dim; i += kThreads) {
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; w++) sum += warp_sums[w * dim + i];
    partials[blockIdx.x * (int64_t)dim + i] = sum;
  }
}

// Rows of any length: first the mean of each, then down the rows, a thread with the same elements of all.
template <class T, class Slab>
__global__ void __launch_bounds__(kThreads) norm_backward_long_kernel(vt_norm_backward_args args, float inv_dim,
                                                                      Rows rows, float* partials) {
  constexpr int kPack = Slab::kPack, kSteps = Slab::kSteps;
  extern __shared__ __align__(16) unsigned char shared[];
  float* means = (float*)shared;  // of the block's rows
  int64_t dim = args.forward.dim, first = blockIdx.x * rows.of_block, end = first + rows.of_block;
  if (end > args.forward.rows) end = args.forward.rows;
  const float *inv_rms = args.forward.inv_rms, *x = args.forward.residual_out;
  const T* dnormed = (const T*)args.dnormed;

  for (int64_t row = first + (int)threadIdx.x / 32; row < end; row += kWarps) {
    float dot = 0.0f;
    Slab::for_each(dim, [&](int64_t slab) {
      Pack<T, kPack> dnormed_packs[kSteps];
      Pack<float, kPack> x_packs[kSteps], weight_packs[kSteps];
      Slab::load(dnormed_packs, dnormed + row * dim, slab, dim);
      Slab::load(x_packs, x + row * dim, slab, dim);
      Slab::load(weight_packs, args.forward.weight, slab, dim);
#pragma unroll
      for (int step = 0; step < kSteps; step++) {
        Elements<kPack>(dnormed_packs[step], x_packs[step], weight_packs[step], __ldg(inv_rms + row)).add_dot(dot);
      }
    });
    float sum = sum_over_warp(dot);
    if (threadIdx.x % 32 == 0) means[row - first] = sum * inv_dim;
  }
  __syncthreads();

  for (int64_t offset = (int64_t)threadIdx.x * kPack; offset < dim; offset += kThreads * kPack) {
    Pack<float, kPack> weight = load_constant<kPack>(args.forward.weight + offset);
    float dweight[kPack] = {};
#pragma unroll 4
    for (int64_t row = first; row < end; row++) {
      int64_t at = row * dim + offset;
      Pack<float, kPack> dresidual_out = {};
      if (args.dresidual_out) dresidual_out = load_constant<kPack>(args.dresidual_out + at);
      Elements<kPack> elements(load_constant<kPack>(dnormed + at), load_constant<kPack>(x + at), weight,
                               __ldg(inv_rms + row));
      elements.add_dweight(dweight);
      elements.store_gradient(args.dresidual + at, dresidual_out, __ldg(inv_rms + row), means[row - first]);
    }
    store(partials + blockIdx.x * dim + offset, dweight);
  }
}

float* take_partials(Workspace& workspace, const vt_norm_args& args) {
  return workspace.take<float>(Rows(args.rows).blocks * args.dim);
}

struct StoreSum {
  float* to;

  __device__ void operator()(int64_t column, float sum) const { to[column] = sum; }
};

template <class T, class Slab>
int32_t run(const vt_norm_backward_args& args, float* partials) {
  Rows rows(args.forward.rows);
  int64_t dim = args.forward.dim;
  float inv_dim = 1.0f / (float)dim;
  if constexpr (Slab::kWhole) {
    static_assert(kWarps * Slab::kSize * (int)sizeof(float) <= kMaxSharedBytes, "a row for each warp");
    return launch(args.forward.runtime, norm_backward_kernel<T, Slab>, rows.blocks, kThreads,
                  kWarps * (int)dim * (int)sizeof(float), args, inv_dim, rows, partials);
  } else {
    return launch(args.forward.runtime, norm_backward_long_kernel<T, Slab>, rows.blocks, kThreads,
                  (int)rows.of_block * (int)sizeof(float), args, inv_dim, rows, partials);
  }
}

}  // namespace

int64_t norm_backward_workspace(const vt_norm_backward_args& args) {
  Workspace workspace = {nullptr};
  take_partials(workspace, args.forward);
  return workspace.bytes;
}

int32_t norm_backward(const vt_norm_backward_args& args) {
  const vt_norm_args& forward = args.forward;
  Workspace workspace = {(char*)forward.runtime.workspace};
  float* partials = take_partials(workspace, forward);
  int32_t status = with_element(forward.dtype, [&](auto element) {
    typedef decltype(element) T;
    bool aligned = packs_are_aligned<T, 4>(args.dnormed) && packs_are_aligned<float, 4>(forward.residual_out) &&
                   packs_are_aligned<float, 4>(args.dresidual_out) && packs_are_aligned<float, 4>(args.dresidual) &&
                   packs_are_aligned<float, 4>(forward.weight) && packs_are_aligned<float, 4>(partials);
    return with_slab(forward.dim, aligned, [&](auto slab) { return run<T, decltype(slab)>(args, partials); });
  });
  if (status != VT_OK) return status;
  return sum_rows(forward.runtime, partials, Rows(forward.rows).blocks, forward.dim, StoreSum{args.dweight});
}

}  // namespace vt
