// Sums of the partial results that the blocks of another kernel left in the workspace, in an order fixed by the shapes.
#pragma once

#include "launch.cuh"

namespace vt {

constexpr int kSumColumns = 32;  // of a block, one a lane
constexpr int kSumWarps = 16;    // each adds up every sixteenth row

// Calls store(column, sum of the column) for every column of partials (rows, columns).
template <class Store>
__global__ void __launch_bounds__(kSumColumns * kSumWarps) sum_rows_kernel(const float* partials, int64_t rows,
                                                                             int64_t columns, Store store) {
  extern __shared__ __align__(16) unsigned char shared[];
  float* sums = (float*)shared;  // [kSumWarps][kSumColumns]
  int lane = (int)threadIdx.x % kSumColumns, warp = (int)threadIdx.x / kSumColumns;
  int64_t column = (int64_t)blockIdx.x * kSumColumns + lane;
  float sum = 0.0f;
  if (column < columns) {
#pragma unroll 8
    for (int64_t row = warp; row < rows; row += kSumWarps) sum += __ldg(partials + row * columns + column);
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (warp == 0 && column < columns) {
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < kSumWarps; w++) total += sums[w * kSumColumns + lane];
    store(column, total);
  }
}

template <class Store>
int32_t sum_rows(const vt_runtime& runtime, const float* partials, int64_t rows, int64_t columns, Store store) {
  constexpr int kThreads = kSumColumns * kSumWarps;
  return launch(runtime, sum_rows_kernel<Store>, divide_up(columns, kSumColumns), kThreads, kThreads * 4, partials,
                rows, columns, store);
}

}  // namespace vt
