// Loops over independent tasks on the caller's thread pool.
//
// What a task computes depends on its index and on the shapes alone, never on the number of threads, and sums over
// tasks are taken afterwards in index order: results have the same bits for any number of threads.
#pragma once

#include "../include/abi.h"
#include "memory.h"

namespace vt {
namespace VT_ISA {

// Waking a thread pool costs microseconds on an idle machine and milliseconds on a loaded one.
constexpr double kSerialNanoseconds = 100e3;

// Calls body(begin, end) -> vt_status over [0, count), in pieces, possibly at the same time. `nanoseconds` is an
// estimate of one task's time on one core. Returns VT_OK or a piece's failure. Tasks must be repeatable: should the
// pool itself fail, all of them run again here.
template <class Body>
VT_INLINE int32_t for_each_task(vt_parallel_for parallel_for, int64_t count, double nanoseconds, const Body& body) {
  if (count <= 0) return VT_OK;
  if (!parallel_for || count == 1 || nanoseconds * (double)count < kSerialNanoseconds) return body(0, count);

  struct Shared {
    const Body* body;
    int32_t status;
  } shared = {&body, VT_OK};
  vt_range_fn run = [](int64_t begin, int64_t end, void* context) {
    Shared* shared = (Shared*)context;
    int32_t status = (*shared->body)(begin, end);
    if (status != VT_OK) __atomic_store_n(&shared->status, status, __ATOMIC_RELAXED);
  };
  // No piece shorter than a third of the serial threshold.
  int64_t grain = (int64_t)(kSerialNanoseconds / 3 / nanoseconds);
  if (parallel_for(0, count, grain > 1 ? grain : 1, run, &shared) != 0) return body(0, count);
  return shared.status;
}

// Calls body with a value of the element type that a vt_dtype names.
template <class Body>
VT_INLINE int32_t with_dtype(int32_t dtype, const Body& body) {
  if (dtype == VT_BF16) return body(BFloat16{});
  if (dtype == VT_F16) return body(Float16{});
  return body(float{});
}

}  // namespace VT_ISA
}  // namespace vt
