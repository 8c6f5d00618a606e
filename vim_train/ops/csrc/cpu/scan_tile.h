// Reading, writing and elementwise work on the tiles of a scan (scan_layout.h says what a tile is).
#pragma once

#include "scan_layout.h"

namespace vt {
namespace VT_ISA {

// ---- the only code that knows the element type and ragged edges ----------------------------------------------------

template <bool kFull, class T>
VT_INLINE void load_tile(TileRows& to, const vt_tensor& from, const Window& window) {
  Rows<T> rows = window.rows<T>(from);
  for (int t = 0; t < window.chunk.steps; t++) {
    VT_UNROLL
    for (int v = 0; v < kVectors; v++) {
      to[t * kVectors + v] = load_lanes<kFull>(rows[t] + v * kLanes, window.lanes - v * kLanes);
    }
  }
}

template <bool kFull, class T>
VT_INLINE void store_step(const Rows<T>& rows, const Window& window, int t, int v, Vec x) {
  store_lanes<kFull>(rows[t] + v * kLanes, x, window.lanes - v * kLanes);
}

// Rows of B or C of one chunk as fp32, [step][state].
template <class T>
VT_INLINE void stage_rows(float* to, const vt_tensor& from, const Chunk& chunk, int64_t states) {
  Rows<const T> rows = chunk.rows<const T>(from, 0);
  for (int t = 0; t < chunk.steps; t++) load_run(to + t * states, rows[t], states);
}

// ---- memory to ask for in advance ----------------------------------------------------------------------------------

// Rows lie far apart in memory, which the processor's own prefetchers do not follow. Asked for all at once they would
// exhaust the cache's buffers for misses and stop everything, so the recurrence asks for some after each few states.
class Prefetcher {
 public:
  template <class T>
  void add(const vt_tensor& tensor, const Window& window) {
    if (!tensor.data) return;
    Rows<const T> rows = window.rows<const T>(tensor);
    add((const char*)rows.first, rows.stride * (int64_t)sizeof(T), kBlock * (int64_t)sizeof(T));
  }

  // Something contiguous, in as many parts as there are steps.
  void add_run(const void* start, int64_t bytes) { add((const char*)start, bytes / kSteps, bytes / kSteps); }

  // The work is done in so many parts, each followed by issue().
  void spread_over(int64_t parts) { rows_at_once_ = divide_up(kSteps, parts); }

  void issue() {
    for (int64_t i = 0; i < rows_at_once_ && row_ < kSteps; i++, row_++) {
      for (int s = 0; s < count_; s++) {
        const char* start = streams_[s].start + row_ * streams_[s].stride;
        for (int64_t offset = 0; offset < streams_[s].bytes; offset += kAlignment) __builtin_prefetch(start + offset);
      }
    }
  }

 private:
  struct Stream {
    const char* start;
    int64_t stride, bytes;
  };

  void add(const char* start, int64_t stride, int64_t bytes) { streams_[count_++] = {start, stride, bytes}; }

  Stream streams_[8];
  int count_ = 0;
  int64_t row_ = 0, rows_at_once_ = 0;
};

// ---- elementwise work ----------------------------------------------------------------------------------------------

constexpr int kAtOnce = 4;  // vectors that go through exp and the like together
static_assert(kTile % kAtOnce == 0 && kAtOnce % kVectors == 0, "a tile is whole groups, a group whole steps");

VT_INLINE void load_group(Vec (&to)[kAtOnce], const Vec* from) {
  VT_UNROLL
  for (int k = 0; k < kAtOnce; k++) to[k] = from[k];
}

VT_INLINE void store_group(Vec* to, const Vec (&from)[kAtOnce]) {
  VT_UNROLL
  for (int k = 0; k < kAtOnce; k++) to[k] = from[k];
}

// delta + bias, then softplus if asked for; its derivative goes to `slope` unless that is null. Like all loops over
// several vectors at once this may run into the steps that a short last chunk leaves unused.
VT_INLINE void finish_delta(TileRows& delta, Vec* slope, int steps, const Row& bias, bool softplus) {
  for (int i = 0; i < steps * kVectors; i += kAtOnce) {
    Vec x[kAtOnce], dx[kAtOnce];
    VT_UNROLL
    for (int k = 0; k < kAtOnce; k++) x[k] = delta[i + k] + bias[k % kVectors], dx[k] = broadcast(1.0f);
    if (softplus) softplus_in_place(x, dx);
    store_group(delta + i, x);
    if (slope) store_group(slope + i, dx);
  }
}

VT_INLINE float largest_size(const TileRows& x, int steps) {
  Vec largest{};
  for (int i = 0; i < steps * kVectors; i++) largest = max(largest, abs(x[i]));
  return horizontal_max(largest);
}

}  // namespace VT_ISA
}  // namespace vt
