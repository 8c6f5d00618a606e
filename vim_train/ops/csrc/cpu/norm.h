// Residual addition and RMSNorm, one row at a time.
#pragma once

#include "../include/abi.h"
#include "memory.h"
#include "parallel.h"
#include "vector_math.h"

namespace vt {
namespace VT_ISA {
namespace norm {

VT_INLINE float square_root(float x) { return __builtin_sqrtf(x); }

// Calls body(offset, lanes) for each vector of a row; only the last may have fewer than kLanes lanes.
template <class Body>
VT_INLINE void for_each_vector(int64_t dim, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= dim; i += kLanes) body(i, (int64_t)kLanes);
  if (i < dim) body(i, dim - i);
}

template <class T>
VT_NOINLINE void forward_rows(const vt_norm_args& args, int64_t begin, int64_t end) {
  int64_t dim = args.dim;
  for (int64_t r = begin; r < end; r++) {
    const T* hidden = (const T*)args.hidden + r * dim;
    const float* residual = args.residual ? args.residual + r * dim : nullptr;
    float* sum = args.residual_out + r * dim;
    Vec squares{};
    for_each_vector(dim, [&](int64_t i, int64_t lanes) {
      Vec x = load_partial(hidden + i, lanes);
      if (residual) x += load_partial(residual + i, lanes);
      store_partial(sum + i, x, lanes);
      squares = fma(x, x, squares);
    });
    float inv_rms = 1.0f / square_root(horizontal_sum(squares) / (float)dim + args.eps);
    args.inv_rms[r] = inv_rms;
    T* normed = (T*)args.normed + r * dim;
    for_each_vector(dim, [&](int64_t i, int64_t lanes) {
      Vec x = load_partial(sum + i, lanes) * broadcast(inv_rms);
      store_partial(normed + i, x * load_partial(args.weight + i, lanes), lanes);
    });
  }
}

// With xhat = x inv_rms: dx = inv_rms (w dy - xhat mean(w dy xhat)) + the gradient of residual_out; dw = sum of dy xhat
// over the rows.
template <class T>
VT_NOINLINE void backward_rows(const vt_norm_backward_args& args, int64_t begin, int64_t end, float* dweight) {
  const vt_norm_args& forward = args.forward;
  int64_t dim = forward.dim;
  memset(dweight, 0, sizeof(float) * (size_t)dim);
  for (int64_t r = begin; r < end; r++) {
    const T* dnormed = (const T*)args.dnormed + r * dim;
    const float* x_row = forward.residual_out + r * dim;
    const float* dresidual_out = args.dresidual_out ? args.dresidual_out + r * dim : nullptr;
    float* dresidual = args.dresidual + r * dim;
    Vec inv_rms = broadcast(forward.inv_rms[r]), dot{};
    for_each_vector(dim, [&](int64_t i, int64_t lanes) {
      Vec product = load_partial(dnormed + i, lanes) * (load_partial(x_row + i, lanes) * inv_rms);
      dot = fma(product, load_partial(forward.weight + i, lanes), dot);
      store_partial(dweight + i, load_partial(dweight + i, lanes) + product, lanes);
    });
    Vec mean = broadcast(horizontal_sum(dot) / (float)dim);
    for_each_vector(dim, [&](int64_t i, int64_t lanes) {
      Vec xhat = load_partial(x_row + i, lanes) * inv_rms;
      Vec dy = load_partial(dnormed + i, lanes) * load_partial(forward.weight + i, lanes);
      Vec dx = inv_rms * (dy - xhat * mean);
      if (dresidual_out) dx += load_partial(dresidual_out + i, lanes);
      store_partial(dresidual + i, dx, lanes);
    });
  }
}

// Rows whose dweight one task sums; a function of the shape alone.
VT_INLINE int64_t rows_per_task(const vt_norm_args& args) {
  int64_t rows = divide_up(args.rows, 256);
  return rows > 64 ? rows : 64;
}

}  // namespace norm

static int32_t norm_forward(const vt_norm_args& args) {
  return for_each_task(args.runtime.parallel_for, args.rows, 0.5 * (double)args.dim, [&](int64_t begin, int64_t end) {
    return with_dtype(args.dtype, [&](auto element) {
      norm::forward_rows<decltype(element)>(args, begin, end);
      return (int32_t)VT_OK;
    });
  });
}

static int32_t norm_backward(const vt_norm_backward_args& args) {
  const vt_norm_args& forward = args.forward;
  int64_t rows = norm::rows_per_task(forward), tasks = divide_up(forward.rows, rows), dim = forward.dim;
  Arena arena;
  arena.take<float>(tasks * dim);
  if (!arena.allocate()) return VT_OUT_OF_MEMORY;
  float* partials = arena.take<float>(tasks * dim);

  auto run = [&](int64_t begin, int64_t end) {
    return with_dtype(forward.dtype, [&](auto element) {
      for (int64_t task = begin; task < end; task++) {
        int64_t first = task * rows, last = smaller(first + rows, forward.rows);
        norm::backward_rows<decltype(element)>(args, first, last, partials + task * dim);
      }
      return (int32_t)VT_OK;
    });
  };
  int32_t status = for_each_task(forward.runtime.parallel_for, tasks, 0.5 * (double)(dim * rows), run);
  memset(args.dweight, 0, sizeof(float) * (size_t)dim);
  for (int64_t task = 0; task < tasks; task++) add_run(args.dweight, partials + task * dim, dim);
  return status;
}

}  // namespace VT_ISA
}  // namespace vt
