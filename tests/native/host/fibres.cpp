// Runs kernels on the host: one block at a time, every thread of it a fibre with its own stack.
//
// A thread runs until it must wait: at __syncthreads for the block, at __syncwarp for the warp, at a shuffle for the one
// lane whose value it takes (a shuffle orders nothing else, so lanes may run far apart). Who goes on is the order's
// choice: always the first thread that can (a warp then runs as far ahead of the next as barriers let it), always the
// last, or one at random. Kernels whose barriers are right give the same bits in all of them.
//
// A launch ends in cudaErrorLaunchFailure when threads of a block wait for one another, meet at different barriers or
// shuffles, or exit while others wait. Shared memory holds NaN before a block begins; with AddressSanitizer, what lies
// beyond the launch's share of it is poisoned.
#include "fibres.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>

#include <mutex>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "cuda_runtime.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__) || defined(HOST_UCONTEXT)
#define HOST_USES_UCONTEXT
#include <ucontext.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

// Kernels declare the array inside the namespaces they live in; all these names are one array.
namespace {
constexpr size_t kSharedRoom = 48 * 1024;
}
extern "C" {
alignas(256) unsigned char host_shared_memory[kSharedRoom];
}
#define ALIAS(name) \
  asm(".globl " name "\n.hidden " name "\n.set " name ", host_shared_memory")
ALIAS("shared");
ALIAS("_ZN2vt6sharedE");
ALIAS("_ZN2vt12_GLOBAL__N_16sharedE");

namespace host {

Clock clock_now;
Span parameters, shared_bytes;
Span shared_room = {(uintptr_t)host_shared_memory, (uintptr_t)host_shared_memory + kSharedRoom};

namespace {

constexpr int kMaxThreads = 1024;
constexpr size_t kStackBytes = 256 * 1024, kGuardBytes = 64 * 1024;

enum class Wait { kNothing, kValue, kWarp, kBlock, kDone };
enum Order { kForward = 0, kReverse = 1, kRandom = 2 };

#ifdef HOST_USES_UCONTEXT
typedef ucontext_t Context;
#else
typedef void* Context;  // the stack pointer; callee-saved registers lie on the stack
#endif

struct Posted {
  uint64_t value;
  int line;
};

struct Fibre {
  Context context;
  char* stack = nullptr;
  void* fake_stack = nullptr;  // AddressSanitizer's
  bool started = false;
  Wait wait;
  int line;                    // of the barrier or shuffle where it waits
  int source;                  // kValue: the lane it waits for
  std::vector<Posted> posted;  // its shuffles since the warp's last barrier
};

struct Scheduler {
  std::mutex one_launch;
  Fibre fibres[kMaxThreads];  // kept for later blocks
  int threads = 0;
  Context main_context;
  void* main_fake_stack = nullptr;
  const void* main_stack = nullptr;
  size_t main_stack_bytes = 0;
  void (*body)(void*);
  void* argument;
  Order order = kForward;
  std::minstd_rand random;
  uint32_t runnable_lanes[kMaxThreads / 32];
  uint32_t runnable_warps;
  uint32_t takers[kMaxThreads / 32];  // lanes that wait for a value
  int waiting_for_block, done, waiting_for_warp[kMaxThreads / 32];
  std::set<std::pair<const char*, int>> barriers;  // passed so far: file and line
  std::string removed_file;  // the end of its path
  int removed_line = 0;
  bool failed;
  char message[512] = "no error";
};

Scheduler scheduler;

#ifndef HOST_USES_UCONTEXT
extern "C" void host_switch_stack(void** from, void* to);
asm(R"(
.text
.type host_switch_stack, @function
host_switch_stack:
  endbr64
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size host_switch_stack, . - host_switch_stack
)");
#endif

void switch_context(Context& from, Context& to) {
#ifdef HOST_USES_UCONTEXT
  swapcontext(&from, &to);
#else
  host_switch_stack(&from, to);
#endif
}

int this_thread() { return clock_now.thread; }

void resume(int thread) {
  Fibre& fibre = scheduler.fibres[thread];
  clock_now.thread = thread;
  threadIdx = {(unsigned)thread, 0, 0};
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&scheduler.main_fake_stack, fibre.stack, kStackBytes);
#endif
  switch_context(scheduler.main_context, fibre.context);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(scheduler.main_fake_stack, nullptr, nullptr);
#endif
  clock_now.thread = -1;
}

// Back to the scheduler, until it resumes this thread.
void yield() {
  Fibre& fibre = scheduler.fibres[this_thread()];
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&fibre.fake_stack, scheduler.main_stack, scheduler.main_stack_bytes);
#endif
  switch_context(fibre.context, scheduler.main_context);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fibre.fake_stack, nullptr, nullptr);
#endif
}

void set_runnable(int thread) {
  scheduler.fibres[thread].wait = Wait::kNothing;
  scheduler.runnable_lanes[thread / 32] |= 1u << thread % 32;
  scheduler.runnable_warps |= 1u << thread / 32;
}

void wait_for(Wait what, int line) {
  int thread = this_thread(), warp = thread / 32;
  Fibre& fibre = scheduler.fibres[thread];
  fibre.wait = what;
  fibre.line = line;
  scheduler.runnable_lanes[warp] &= ~(1u << thread % 32);
  if (!scheduler.runnable_lanes[warp]) scheduler.runnable_warps &= ~(1u << warp);
}

void fibre_main() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &scheduler.main_stack, &scheduler.main_stack_bytes);
#endif
  for (;;) {  // one turn a block
    scheduler.body(scheduler.argument);
    wait_for(Wait::kDone, 0);
    ++scheduler.done;
    yield();
  }
}

void prepare_fibre(Fibre& fibre) {
  if (!fibre.stack) {
    char* pages = (char*)mmap(nullptr, kStackBytes + kGuardBytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) abort();
    mprotect(pages, kGuardBytes, PROT_NONE);
    fibre.stack = pages + kGuardBytes;
  }
#ifdef __SANITIZE_ADDRESS__
  ASAN_UNPOISON_MEMORY_REGION(fibre.stack, kStackBytes);
#endif
  fibre.fake_stack = nullptr;
#ifdef HOST_USES_UCONTEXT
  getcontext(&fibre.context);
  fibre.context.uc_stack.ss_sp = fibre.stack;
  fibre.context.uc_stack.ss_size = kStackBytes;
  fibre.context.uc_link = nullptr;
  makecontext(&fibre.context, fibre_main, 0);
#else
  void** top = (void**)(fibre.stack + kStackBytes);
  *--top = nullptr;  // where a call would have left its return address
  *--top = (void*)fibre_main;
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  fibre.context = top;
#endif
  fibre.started = true;
}

int bit(uint32_t mask) {
  switch (scheduler.order) {
    case kForward: return __builtin_ctz(mask);
    case kReverse: return 31 - __builtin_clz(mask);
    default:
      for (int skip = (int)(scheduler.random() % (unsigned)__builtin_popcount(mask)); skip > 0; --skip) mask &= mask - 1;
      return __builtin_ctz(mask);
  }
}

// Lets those go on whose value this thread has now posted.
void wake_takers(int thread) {
  uint32_t& takers = scheduler.takers[thread / 32];
  for (uint32_t left = takers; left; left &= left - 1) {
    int lane = __builtin_ctz(left), taker = thread / 32 * 32 + lane;
    const Fibre& fibre = scheduler.fibres[taker];
    if (fibre.source == thread && fibre.posted.size() <= scheduler.fibres[thread].posted.size()) {
      takers &= ~(1u << lane);
      set_runnable(taker);
    }
  }
}

// All lanes of the warp have the same shuffles behind them.
void begin_warp_epoch(int warp) {
  size_t shuffles = scheduler.fibres[32 * warp].posted.size();
  for (int thread = 32 * warp; thread < std::min(scheduler.threads, 32 * warp + 32); ++thread) {
    if (scheduler.fibres[thread].posted.size() != shuffles)
      fail("threads %d and %d come to a barrier with different numbers of shuffles", 32 * warp, thread);
    scheduler.fibres[thread].posted.clear();
  }
  ++clock_now.warp_epoch[warp];
}

// The launch fails where threads of [first, end) wait at different lines.
void require_same_line(int first, int end, const char* what) {
  for (int thread = first; thread < end; ++thread)
    if (scheduler.fibres[thread].line != scheduler.fibres[first].line)
      fail("divergent %s: thread %d waits at line %d, thread %d at line %d", what, first, scheduler.fibres[first].line,
           thread, scheduler.fibres[thread].line);
}

bool ends_in(const char* path, const char* name) {
  size_t length = strlen(path), end = strlen(name);
  return length >= end && strcmp(path + length - end, name) == 0;
}

bool is_removed(const char* file, int line) {
  return line == scheduler.removed_line && ends_in(file, scheduler.removed_file.c_str());
}

void record_failure(const char* format, va_list arguments) {
  scheduler.failed = true;
  vsnprintf(scheduler.message, sizeof scheduler.message, format, arguments);
}

void record_deadlock() {
  const char* names[] = {"can run", "wait for a shuffle", "wait at __syncwarp", "wait at __syncthreads", "have exited"};
  int counts[5] = {}, example[5] = {};
  for (int thread = 0; thread < scheduler.threads; ++thread) {
    int wait = (int)scheduler.fibres[thread].wait;
    if (counts[wait]++ == 0) example[wait] = thread;
  }
  int length = snprintf(scheduler.message, sizeof scheduler.message, "deadlock in block %u:", blockIdx.x);
  for (int wait = 1; wait < 5; ++wait)
    if (counts[wait])
      length += snprintf(scheduler.message + length, sizeof scheduler.message - length, " %d threads %s (%d at line %d);",
                         counts[wait], names[wait], example[wait], scheduler.fibres[example[wait]].line);
  scheduler.failed = true;
}

void begin_block(unsigned index) {
  blockIdx = {index, 0, 0};
  ++clock_now.block;
  ++clock_now.block_epoch;
  for (int thread = 0; thread < scheduler.threads; ++thread) {
    Fibre& fibre = scheduler.fibres[thread];
    if (!fibre.started) prepare_fibre(fibre);
    fibre.posted.clear();
    set_runnable(thread);
  }
  for (int warp = 0; 32 * warp < scheduler.threads; ++warp) scheduler.takers[warp] = scheduler.waiting_for_warp[warp] = 0;
  scheduler.waiting_for_block = scheduler.done = 0;
  memset(host_shared_memory, 0xff, shared_bytes.end - shared_bytes.begin);  // NaN in every element type
}

void run_block(unsigned index) {
  begin_block(index);
  while (scheduler.runnable_warps && !scheduler.failed) {
    int warp = bit(scheduler.runnable_warps);
    resume(32 * warp + bit(scheduler.runnable_lanes[warp]));
  }
  if (!scheduler.failed && scheduler.done != scheduler.threads) record_deadlock();
}

void abandon_fibres() {
  for (Fibre& fibre : scheduler.fibres) fibre.started = false;
  for (uint32_t& lanes : scheduler.runnable_lanes) lanes = 0;
  scheduler.runnable_warps = 0;
}

}  // namespace

bool on_this_stack(uintptr_t address) {
  uintptr_t stack = (uintptr_t)scheduler.fibres[this_thread()].stack;
  return stack <= address && address < stack + kStackBytes;
}

void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  record_failure(format, arguments);
  va_end(arguments);
  yield();  // for good
  abort();
}

int lane() { return this_thread() % 32; }

void sync_block(const char* file, int line) {
  if (is_removed(file, line)) return;
  wait_for(Wait::kBlock, line);
  if (++scheduler.waiting_for_block == scheduler.threads) {
    scheduler.waiting_for_block = 0;
    require_same_line(0, scheduler.threads, "__syncthreads");
    scheduler.barriers.insert({file, line});
    for (int warp = 0; 32 * warp < scheduler.threads; ++warp) begin_warp_epoch(warp);
    ++clock_now.block_epoch;
    for (int thread = 0; thread < scheduler.threads; ++thread) set_runnable(thread);
  }
  yield();
}

void sync_warp(unsigned mask, const char* file, int line) {
  if (is_removed(file, line)) return;
  int warp = this_thread() / 32, first = 32 * warp, end = std::min(scheduler.threads, first + 32);
  if (mask != ~0u) fail("line %d: __syncwarp of part of a warp", line);
  wait_for(Wait::kWarp, line);
  if (++scheduler.waiting_for_warp[warp] == end - first) {
    scheduler.waiting_for_warp[warp] = 0;
    require_same_line(first, end, "__syncwarp");
    scheduler.barriers.insert({file, line});
    begin_warp_epoch(warp);
    for (int thread = first; thread < end; ++thread) set_runnable(thread);
  }
  yield();
}

uint64_t exchange(unsigned mask, uint64_t value, int source_lane, int line) {
  int thread = this_thread(), first = thread / 32 * 32, source = first + source_lane;
  if (mask != ~0u) fail("line %d: a shuffle of part of a warp", line);
  if (source_lane < 0 || source_lane >= 32 || source >= scheduler.threads)
    fail("line %d: thread %d takes the value of lane %d", line, thread, source_lane);
  Fibre &fibre = scheduler.fibres[thread], &other = scheduler.fibres[source];
  size_t turn = fibre.posted.size();
  fibre.posted.push_back({value, line});
  wake_takers(thread);
  if (other.posted.size() <= turn) {
    fibre.source = source;
    scheduler.takers[thread / 32] |= 1u << thread % 32;
    wait_for(Wait::kValue, line);
    yield();
  } else if (scheduler.order == kRandom && scheduler.random() % 4 == 0) {
    yield();
  }
  if (other.posted[turn].line != line)
    fail("divergent shuffle: thread %d at line %d, thread %d at line %d", thread, line, source, other.posted[turn].line);
  return other.posted[turn].value;
}

cudaError_t run_grid(const cudaLaunchConfig_t& config, void (*body)(void*), void* context, size_t context_bytes) {
  std::lock_guard<std::mutex> guard(scheduler.one_launch);
  const dim3 grid = config.gridDim, block = config.blockDim;
  if (grid.y != 1 || grid.z != 1 || block.y != 1 || block.z != 1 || block.x == 0 || block.x > kMaxThreads ||
      grid.x == 0 || grid.x > INT32_MAX)
    return cudaErrorInvalidConfiguration;
  if (config.dynamicSmemBytes > kSharedRoom) return cudaErrorInvalidValue;
  gridDim = grid;
  blockDim = block;
  scheduler.threads = (int)block.x;
  scheduler.body = body;
  scheduler.argument = context;
  scheduler.failed = false;
  parameters = {(uintptr_t)context, (uintptr_t)context + context_bytes};
  shared_bytes = {shared_room.begin, shared_room.begin + config.dynamicSmemBytes};
  ++clock_now.launch;
#ifdef __SANITIZE_ADDRESS__
  ASAN_UNPOISON_MEMORY_REGION(host_shared_memory, kSharedRoom);
  ASAN_POISON_MEMORY_REGION((void*)shared_bytes.end, shared_room.end - shared_bytes.end);
#endif
  for (unsigned index = 0; index < grid.x && !scheduler.failed; ++index) run_block(index);
  if (!scheduler.failed) return cudaSuccess;
  abandon_fibres();
  return cudaErrorLaunchFailure;
}

}  // namespace host

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    default: return host::scheduler.message;
  }
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void host_set_order(int order, unsigned seed) {
  host::scheduler.order = (host::Order)order;
  host::scheduler.random.seed(seed);
}

// From now on the kernels run as if the barrier in this line were not there; line 0: with all of them.
EXPORT void host_remove_barrier(const char* file, int line) {
  host::scheduler.removed_file = file;
  host::scheduler.removed_line = line;
}

// Whether a block has come by the barrier in this line.
EXPORT int host_passed_barrier(const char* file, int line) {
  for (auto [path, number] : host::scheduler.barriers)
    if (number == line && host::ends_in(path, file)) return 1;
  return 0;
}
