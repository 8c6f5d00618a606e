// The C ABI: checks arguments and calls the kernels of the best instruction set the processor has.
//
// Translation units and their flags. All: -std=c++17 -O3 -ffp-contract=fast -fno-math-errno -fno-trapping-math
// -fno-exceptions -fno-rtti -fvisibility=hidden (never -ffast-math: NaN and infinity must pass through).
//   dispatch.cpp, isa_baseline.cpp   nothing more
//   isa_avx2.cpp                     on x86-64: -mavx2 -mfma -mf16c
//   isa_avx512.cpp                   on x86-64: -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c
// (elsewhere the last two compile to nothing).
//
// VIM_TRAIN_ISA=baseline|avx2|avx512 asks for one instruction set; what the processor lacks is never chosen.
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

#define VT_EXPORT extern "C" __attribute__((visibility("default")))

namespace vt {
namespace {

const Kernels* choose_kernels() {
#if defined(__x86_64__)
  const char* wanted = getenv("VIM_TRAIN_ISA");
  auto allowed = [wanted](const char* isa) { return !wanted || !*wanted || strcmp(wanted, isa) == 0; };
  __builtin_cpu_init();
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");  // these come with F16C
  bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512 && allowed("avx512")) return &kAvx512Kernels;
  if (avx2 && (allowed("avx2") || allowed("avx512"))) return &kAvx2Kernels;
#endif
  return &kBaselineKernels;
}

// Chosen when the library is loaded, before any thread can call.
const Kernels* const kernels = choose_kernels();

bool known_dtype(int32_t dtype) { return dtype == VT_F32 || dtype == VT_BF16 || dtype == VT_F16; }

int32_t check(const vt_scan_args& args) {
  if (args.size != sizeof(vt_scan_args)) return VT_BAD_SIZE;
  bool supported = known_dtype(args.dtype) && args.states >= 1 && (args.directions == 1 || args.directions == 2);
  return supported ? VT_OK : VT_UNSUPPORTED;
}

int32_t check(const vt_scan_backward_args& args) {
  if (args.size != sizeof(vt_scan_backward_args)) return VT_BAD_SIZE;
  return check(args.forward);
}

int32_t check(const vt_conv_args& args) {
  if (args.size != sizeof(vt_conv_args)) return VT_BAD_SIZE;
  bool supported = known_dtype(args.dtype) && args.width >= 1 && args.width <= VT_MAX_CONV_WIDTH;
  return supported ? VT_OK : VT_UNSUPPORTED;
}

int32_t check(const vt_conv_backward_args& args) {
  if (args.size != sizeof(vt_conv_backward_args)) return VT_BAD_SIZE;
  return check(args.forward);
}

int32_t check(const vt_norm_args& args) {
  if (args.size != sizeof(vt_norm_args)) return VT_BAD_SIZE;
  return known_dtype(args.dtype) ? VT_OK : VT_UNSUPPORTED;
}

int32_t check(const vt_norm_backward_args& args) {
  if (args.size != sizeof(vt_norm_backward_args)) return VT_BAD_SIZE;
  return check(args.forward);
}

template <class Args>
int32_t run(int32_t (*kernel)(const Args&), const Args* args) {
  int32_t status = check(*args);
  return status == VT_OK ? kernel(*args) : status;
}

}  // namespace
}  // namespace vt

VT_EXPORT int32_t vt_abi_version(void) { return VT_ABI_VERSION; }
VT_EXPORT const char* vt_target(void) { return vt::kernels->isa; }
VT_EXPORT int32_t vt_cuda_version(void) { return 0; }
VT_EXPORT const char* vt_last_error(void) { return ""; }
VT_EXPORT int32_t vt_scan_forward(const vt_scan_args* args) { return vt::run(vt::kernels->scan_forward, args); }
VT_EXPORT int32_t vt_scan_backward(const vt_scan_backward_args* args) {
  return vt::run(vt::kernels->scan_backward, args);
}
VT_EXPORT int32_t vt_conv_forward(const vt_conv_args* args) { return vt::run(vt::kernels->conv_forward, args); }
VT_EXPORT int32_t vt_conv_backward(const vt_conv_backward_args* args) {
  return vt::run(vt::kernels->conv_backward, args);
}
VT_EXPORT int32_t vt_norm_forward(const vt_norm_args* args) { return vt::run(vt::kernels->norm_forward, args); }
VT_EXPORT int32_t vt_norm_backward(const vt_norm_backward_args* args) {
  return vt::run(vt::kernels->norm_backward, args);
}

// The kernels allocate what they need themselves.
VT_EXPORT int64_t vt_scan_forward_workspace(const vt_scan_args*) { return 0; }
VT_EXPORT int64_t vt_scan_backward_workspace(const vt_scan_backward_args*) { return 0; }
VT_EXPORT int64_t vt_conv_backward_workspace(const vt_conv_backward_args*) { return 0; }
VT_EXPORT int64_t vt_norm_backward_workspace(const vt_norm_backward_args*) { return 0; }
