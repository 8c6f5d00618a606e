// Every load and store of the kernels, seen: races are reported and bytes of global memory counted.
//
// The kernels' files are compiled with -fsanitize=thread, which puts a call before each access, and linked with these
// functions instead of the sanitizer's library. Two accesses to the same bytes, one of them a store, race when nothing
// orders them: threads of different blocks in one launch always; threads of one block without a __syncthreads between,
// unless they share a warp and a __syncwarp lies between. Shuffles order nothing. What is found does not depend on
// the order in which the fibres happened to run.
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>

#include <algorithm>
#include <array>
#include <memory>
#include <unordered_map>
#include <vector>

#include "cuda_runtime.h"
#include "fibres.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace host {
namespace {

constexpr int kGrain = 2;  // bytes told apart: no element is smaller

// Who has touched a grain, as far as later accesses may race with it.
struct Grain {
  uint64_t launch = 0, writer_block = 0, reader_block = 0;  // blocks of this launch; the first reader
  bool more_reader_blocks = false;
  uint64_t epoch = 0;  // of all that follows
  int writer = -1;
  uint64_t writer_warp_epoch = 0;
  uint32_t reader_warps = 0;
  int last_warp = -1;  // that read
  uint64_t last_warp_epoch = 0;
  uint32_t last_lanes = 0;
};

struct Bytes {
  uint64_t loaded = 0, stored = 0;
  uint64_t distinct = 0;  // of both, those that no thread of the launch had loaded, or stored, before
};

struct Counted {
  Span span;
  Bytes bytes;
};

template <class T>
Span span_of(const T& object) {
  return {(uintptr_t)&object, (uintptr_t)(&object + 1)};
}

typedef std::array<Grain, 4096 / kGrain> Page;
std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
std::vector<Counted> ranges;  // in order of their addresses
Bytes others;                 // outside all ranges
int64_t races;
char first_race[256];

Grain& grain_of(uintptr_t address) {
  static uintptr_t last_number = 0;
  static Page* last_page = nullptr;
  uintptr_t number = address / 4096;
  if (!last_page || number != last_number) {
    std::unique_ptr<Page>& page = pages[number];
    if (!page) page.reset(new Page);
    last_page = page.get();
    last_number = number;
  }
  return (*last_page)[address % 4096 / kGrain];
}

bool races_with_writer(const Grain& grain, int thread) {
  if (grain.writer < 0 || grain.writer == thread) return false;
  return grain.writer / 32 != thread / 32 || grain.writer_warp_epoch == clock_now.warp_epoch[thread / 32];
}

bool races_with_readers(const Grain& grain, int thread) {
  int warp = thread / 32;
  if (grain.reader_warps & ~(1u << warp)) return true;
  return grain.last_warp == warp && grain.last_warp_epoch == clock_now.warp_epoch[warp] &&
         (grain.last_lanes & ~(1u << thread % 32));
}

struct Noted {
  bool race;
  bool first;  // of its kind in the launch
};

// Enters an access in a grain.
Noted note(Grain& grain, bool store, bool in_shared) {
  int thread = clock_now.thread, warp = thread / 32;
  if (grain.launch != clock_now.launch) grain = Grain(), grain.launch = clock_now.launch;
  if (grain.epoch != clock_now.block_epoch) {
    grain.epoch = clock_now.block_epoch;
    grain.writer = grain.last_warp = -1;
    grain.reader_warps = 0;
  }
  uint64_t block = in_shared ? 1 : clock_now.block;  // every block has its own shared memory
  bool race = grain.writer_block && grain.writer_block != block, first = !(store ? grain.writer_block : grain.reader_block);
  race |= races_with_writer(grain, thread);
  if (store) {
    race |= (grain.reader_block && grain.reader_block != block) || grain.more_reader_blocks;
    race |= races_with_readers(grain, thread);
    grain.writer_block = block;
    grain.writer = thread;
    grain.writer_warp_epoch = clock_now.warp_epoch[warp];
  } else {
    if (!grain.reader_block) grain.reader_block = block;
    grain.more_reader_blocks |= grain.reader_block != block;
    grain.reader_warps |= 1u << warp;
    if (grain.last_warp != warp || grain.last_warp_epoch != clock_now.warp_epoch[warp]) grain.last_lanes = 0;
    grain.last_warp = warp;
    grain.last_warp_epoch = clock_now.warp_epoch[warp];
    grain.last_lanes |= 1u << thread % 32;
  }
  return {race, first};
}

Bytes& bytes_at(uintptr_t address) {
  auto after = std::upper_bound(ranges.begin(), ranges.end(), address,
                                [](uintptr_t a, const Counted& range) { return a < range.span.begin; });
  return after != ranges.begin() && (after - 1)->span.holds(address) ? (after - 1)->bytes : others;
}

bool is_private(uintptr_t address) {
  const Span indices[] = {span_of(threadIdx), span_of(blockIdx), span_of(blockDim), span_of(gridDim)};
  return on_this_stack(address) || parameters.holds(address) ||
         std::any_of(std::begin(indices), std::end(indices), [=](const Span& s) { return s.holds(address); });
}

void access(uintptr_t address, int bytes, bool store, void* caller) {
  if (clock_now.thread < 0 || is_private(address)) return;
  bool in_shared = shared_room.holds(address), beyond = in_shared && !shared_bytes.holds(address + bytes - 1);
  bool race = false;
  Bytes seen;
  (store ? seen.stored : seen.loaded) = (uint64_t)bytes;
  for (uintptr_t a = address; a < address + bytes; a += kGrain) {
    Noted noted = note(grain_of(a), store, in_shared);
    race |= noted.race;
    seen.distinct += noted.first ? kGrain : 0;
  }
  if (!in_shared) {
    Bytes& total = bytes_at(address);
    total = {total.loaded + seen.loaded, total.stored + seen.stored, total.distinct + seen.distinct};
  }
  if (!race && !beyond) return;
  if (races++) return;
  Dl_info info = {};
  dladdr(caller, &info);
  snprintf(first_race, sizeof first_race, "thread %d %s %s memory%s at +0x%zx", clock_now.thread,
           store ? "stores to" : "loads from", in_shared ? "shared" : "global",
           beyond ? " beyond what the launch asked for" : " while another thread may be at it",
           (size_t)((char*)caller - (char*)info.dli_fbase));
}

}  // namespace
}  // namespace host

#define CALLER __builtin_return_address(0)
#define HOOKS(bytes)                                                                                            \
  EXPORT void __tsan_read##bytes(void* p) { host::access((uintptr_t)p, bytes, false, CALLER); }                 \
  EXPORT void __tsan_write##bytes(void* p) { host::access((uintptr_t)p, bytes, true, CALLER); }                 \
  EXPORT void __tsan_unaligned_read##bytes(void* p) { host::access((uintptr_t)p, bytes, false, CALLER); }       \
  EXPORT void __tsan_unaligned_write##bytes(void* p) { host::access((uintptr_t)p, bytes, true, CALLER); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
EXPORT void __tsan_read_range(void* p, size_t n) { host::access((uintptr_t)p, (int)n, false, CALLER); }
EXPORT void __tsan_write_range(void* p, size_t n) { host::access((uintptr_t)p, (int)n, true, CALLER); }
EXPORT void __tsan_vptr_update(void*, void*) {}
EXPORT void __tsan_func_entry(void*) {}
EXPORT void __tsan_func_exit() {}
EXPORT void __tsan_init() {}

// Forgets races and counts; bytes are counted for each of n spans of memory, given in order of their addresses.
EXPORT void host_trace(int n, const uint64_t* begins, const uint64_t* ends) {
  host::ranges.clear();
  for (int i = 0; i < n; ++i) host::ranges.push_back({{(uintptr_t)begins[i], (uintptr_t)ends[i]}, {}});
  host::others = {};
  host::races = 0;
  host::first_race[0] = 0;
}

// Of span i; i < 0: of global memory outside all of them.
EXPORT void host_bytes(int i, uint64_t* loaded, uint64_t* stored, uint64_t* distinct) {
  const host::Bytes& bytes = i < 0 ? host::others : host::ranges[i].bytes;
  *loaded = bytes.loaded, *stored = bytes.stored, *distinct = bytes.distinct;
}
EXPORT int64_t host_races() { return host::races; }
EXPORT const char* host_first_race() { return host::first_race; }
