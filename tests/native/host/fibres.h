// What the scheduler of fibres.cpp tells the memory checks of trace.cpp, and hears from them.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace host {

struct Clock {            // the memory order that barriers give: what lies between two ticks is unordered
  uint64_t launch = 0;
  uint64_t block = 0;     // unique over all launches
  uint64_t block_epoch = 0;          // passes of __syncthreads, by every thread of the block at once
  uint64_t warp_epoch[32] = {};      // passes of __syncwarp or __syncthreads, by every lane of the warp at once
  int thread = -1;        // running now; -1: none
};
extern Clock clock_now;

struct Span {
  uintptr_t begin, end;
  bool holds(uintptr_t address) const { return begin <= address && address < end; }
};
extern Span parameters;      // of the kernel being run
extern Span shared_bytes;    // as many as the launch asked for
extern Span shared_room;     // all that a launch can ask for
bool on_this_stack(uintptr_t address);

[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));  // ends the launch with an error

}  // namespace host
