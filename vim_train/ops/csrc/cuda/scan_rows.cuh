// Rows of the sequence as the scans read and write them: by slots, columns, and staged in shared memory.
#pragma once

#include "element.cuh"
#include "scan_schedule.cuh"

namespace vt {
namespace forward {

// An element as it was loaded, to be widened when it is needed. It fills a register: two halves would be moved about.
template <class T>
struct Loaded {
  uint32_t bits = 0;

  __device__ __forceinline__ static Loaded from(T x) { return {x.bits}; }
  __device__ __forceinline__ float value() const { return widen(T{(uint16_t)bits}); }
};

template <>
struct Loaded<float> {
  float x = 0.0f;

  __device__ __forceinline__ static Loaded from(float x) { return {x}; }
  __device__ __forceinline__ float value() const { return x; }
};

// One column of a tensor from some slot's row on.
template <class T>
struct Column {
  T* at;
  int stride;  // from slot to slot: negative for a reversed direction

  __device__ __forceinline__ T* row(int i) const { return at + (int64_t)hidden(stride) * i; }
  __device__ __forceinline__ void advance(int slots) { at = row(slots); }

  template <int kCount>
  __device__ __forceinline__ void load(Loaded<T> (&x)[kCount]) const {
#pragma unroll
    for (int i = 0; i < kCount; i++) x[i] = Loaded<T>::from(*row(i));
  }
  template <int kCount>
  __device__ __forceinline__ void store(const float (&x)[kCount]) const {
#pragma unroll
    for (int i = 0; i < kCount; i++) *row(i) = narrow<T>(x[i]);
  }

  // Where some of the slots first, first + 1, ... have no position. Those are zero.
  template <int kCount>
  __device__ __forceinline__ void load(Loaded<T> (&x)[kCount], Slots slots, int first) const {
#pragma unroll
    for (int i = 0; i < kCount; i++) x[i] = slots.has(first + i) ? Loaded<T>::from(*row(i)) : Loaded<T>{};
  }
  template <int kCount>
  __device__ __forceinline__ void store(const float (&x)[kCount], Slots slots, int first) const {
#pragma unroll
    for (int i = 0; i < kCount; i++) {
      if (slots.has(first + i)) *row(i) = narrow<T>(x[i]);
    }
  }
};

// Copies rows of B and C to shared memory as fp32, kTile slots at a time: kStates of B, then of C, a slot. What has no
// place in memory is zero. kThreads threads share the work.
template <class T, int kThreads, int kStates, int kTile>
struct Stager {
  static constexpr int kRow = 2 * kStates;
  static constexpr int kRowsAtOnce = kThreads / kStates;
  static constexpr int kCount = (kTile + kRowsAtOnce - 1) / kRowsAtOnce;

  Column<T> B, C;  // of the thread's state, from the first of its slots on
  bool exists;
  Loaded<T> b[kCount], c[kCount];

  __device__ __forceinline__ Stager(const vt_scan_args& args, int d, int64_t batch, int64_t start, int sign,
                                    int thread) {
    const vt_direction& dir = args.dir[d];
    const int row = thread / kStates, n = thread % kStates;
    exists = n < args.states && row < kTile;
    B = {row_of<T>(dir.B, batch, start + sign * row) + n, sign * (int)dir.B.stride_len};
    C = {row_of<T>(dir.C, batch, start + sign * row) + n, sign * (int)dir.C.stride_len};
  }

  __device__ __forceinline__ void fetch(Slots slots, int first) {
    if (exists && slots.all()) {
#pragma unroll
      for (int i = 0; i < kCount; i++) {
        b[i] = Loaded<T>::from(*B.row(i * kRowsAtOnce));
        c[i] = Loaded<T>::from(*C.row(i * kRowsAtOnce));
      }
    } else {
#pragma unroll
      for (int i = 0; i < kCount; i++) {
        const bool present = exists && slots.has(first + row() + i * kRowsAtOnce);
        b[i] = present ? Loaded<T>::from(*B.row(i * kRowsAtOnce)) : Loaded<T>{};
        c[i] = present ? Loaded<T>::from(*C.row(i * kRowsAtOnce)) : Loaded<T>{};
      }
    }
    B.advance(kTile);
    C.advance(kTile);
  }

  __device__ __forceinline__ void put(float* tile) const {
    if (row() >= kTile) return;
    float* to = tile + row() * kRow + thread() % kStates;
#pragma unroll
    for (int i = 0; i < kCount; i++) {
      to[i * kRowsAtOnce * kRow] = b[i].value();
      to[i * kRowsAtOnce * kRow + kStates] = c[i].value();
    }
  }

 private:
  __device__ __forceinline__ static int thread() { return hidden(threadIdx.x) % kThreads; }
  __device__ __forceinline__ static int row() { return thread() / kStates; }
};

}  // namespace forward
}  // namespace vt
