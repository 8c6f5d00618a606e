// The C ABI: checks a plan, decodes, and runs the kernels of the best instruction set the processor has.
//
// All files: -std=c++17 -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math -fno-exceptions -fno-rtti
// -fvisibility=hidden. On x86-64 kernels/isa_avx2.cpp with -mavx2, and kernels/isa_avx512.cpp with -mavx2 -mavx512f
// -mavx512bw -mavx512vl -mavx512vnni; elsewhere both compile to nothing.
//
// VIM_TRAIN_ISA=baseline|avx2|avx512 asks for one instruction set; what the processor lacks is never chosen.
#include "pixels.h"

#include <stdlib.h>
#include <string.h>

#include <utility>

#include "jpeg.h"
#include "kernels.h"

#define VTP_EXPORT extern "C" __attribute__((visibility("default")))

namespace vtp {
namespace {

const Kernels* choose_kernels() {
#if defined(__x86_64__)
  const char* wanted = getenv("VIM_TRAIN_ISA");
  auto allowed = [wanted](const char* isa) { return !wanted || !*wanted || strcmp(wanted, isa) == 0; };
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vnni");
  if (avx512 && allowed("avx512")) return &kAvx512Kernels;
  if (avx2 && (allowed("avx2") || allowed("avx512"))) return &kAvx2Kernels;
#endif
  return &kBaselineKernels;
}

// Chosen when the library is loaded, before any thread can call.
const Kernels* const kernels = choose_kernels();

struct Memory {
  Scratch decoded, horizontal, vertical, between, image, other;

  void trim() {
    for (Scratch* scratch : {&decoded, &horizontal, &vertical, &between, &image, &other}) scratch->trim();
  }
};

Memory& memory() {
  static thread_local Memory of_thread;
  return of_thread;
}

bool inside(const int32_t box[4], int64_t width, int64_t height) {
  return box[0] >= 0 && box[1] >= 0 && box[2] >= 1 && box[3] >= 1 && int64_t{box[0]} + box[2] <= width &&
         int64_t{box[1]} + box[3] <= height;
}

bool valid(const vtp_op& op) {
  switch (op.code) {
    case VTP_POSTERIZE: return op.value[0] >= 0 && op.value[0] <= 8;
    case VTP_SOLARIZE: return op.value[0] >= 0 && op.value[0] <= 256;
    case VTP_SOLARIZE_ADD: return op.value[0] >= 0 && op.value[0] <= 255;
    case VTP_AFFINE: return op.filter == VTP_BILINEAR || op.filter == VTP_BICUBIC;
  }
  return op.code >= VTP_INVERT && op.code <= VTP_AFFINE;
}

int32_t check(const vtp_plan& plan) {
  if (plan.size != sizeof(vtp_plan)) return VTP_BAD_SIZE;
  constexpr int32_t most = 1 << 16;  // a side, as JPEG has it
  bool resized = plan.crop[2] != plan.resized[0] || plan.crop[3] != plan.resized[1];
  bool good = inside(plan.crop, most, most) && plan.resized[0] >= 1 && plan.resized[1] >= 1 && plan.resized[0] <= most &&
              plan.resized[1] <= most && inside(plan.window, plan.resized[0], plan.resized[1]) &&
              (!resized || plan.filter == VTP_BILINEAR || plan.filter == VTP_BICUBIC) &&
              (plan.channels == 1 || plan.channels == 3 || plan.channels == 4) && plan.op_count >= 0;
  for (int32_t i = 0; good && i < plan.op_count; ++i) good = valid(plan.ops[i]);
  return good ? VTP_OK : VTP_BAD_PLAN;
}

// An image in scratch memory, its rows long enough for the vertical pass's steps.
bool take(Scratch& scratch, int32_t width, int32_t height, Image& image) {
  int64_t stride = (int64_t{width} * 4 + 63) & ~int64_t{63};
  image = {scratch.take(stride * height), stride, width, height};
  return image.data != nullptr;
}

void copy(const Image& from, bool flip_x, bool flip_y, const Image& to) {
  for (int32_t y = 0; y < to.height; ++y) {
    const uint8_t* row = from.row(y);
    uint8_t* out = to.row(flip_y ? to.height - 1 - y : y);
    if (!flip_x) {
      memcpy(out, row, int64_t{to.width} * 4);
    } else {
      for (int32_t x = 0; x < to.width; ++x) memcpy(out + 4 * int64_t{to.width - 1 - x}, row + 4 * int64_t{x}, 4);
    }
  }
}

struct Axes {
  Axis x, y;
};

int32_t make_axes(const vtp_plan& plan, Axes& axes) {
  Memory& mine = memory();
  const int32_t* window = plan.window;
  if (!make_axis(plan.crop[2], plan.resized[0], window[0], window[2], plan.filter, *kernels->layout, mine.horizontal, axes.x) ||
      !make_axis(plan.crop[3], plan.resized[1], window[1], window[3], plan.filter, *kernels->layout, mine.vertical, axes.y))
    return VTP_OUT_OF_MEMORY;
  return VTP_OK;
}

// `source` holds exactly what the axes need.
int32_t resize(const vtp_plan& plan, const Axes& axes, const Image& source, const Image& out) {
  const Axis &x = axes.x, &y = axes.y;
  if (!x.resampled && !y.resampled) {
    copy(source, plan.flip_x, plan.flip_y, out);
    return VTP_OK;
  }
  if (!y.resampled) {
    if (!plan.flip_y) {
      kernels->horizontal(source, x, plan.flip_x, out);
      return VTP_OK;
    }
  } else if (!x.resampled) {
    if (!plan.flip_x) {
      kernels->vertical(source, y, plan.flip_y, out);
      return VTP_OK;
    }
  }
  Image between;
  const bool vertical_first = y.resampled && (!x.resampled || plan.vertical_first);
  const int32_t width = vertical_first ? source.width : x.outputs;
  const int32_t height = vertical_first ? y.outputs : source.height;
  if (!take(memory().between, width, height, between)) return VTP_OUT_OF_MEMORY;
  if (vertical_first) {
    kernels->vertical(source, y, plan.flip_y, between);
    if (x.resampled) kernels->horizontal(between, x, plan.flip_x, out);
    else copy(between, plan.flip_x, false, out);
  } else {
    kernels->horizontal(source, x, plan.flip_x, between);
    if (y.resampled) kernels->vertical(between, y, plan.flip_y, out);
    else copy(between, false, plan.flip_y, out);
  }
  return VTP_OK;
}

// Whether the second pass can write the planes of `out`, so that neither pass meets the unused byte.
bool ends_in_planes(const vtp_plan& plan, const Axes& axes) {
  return axes.x.resampled && axes.y.resampled && !plan.vertical_first && plan.op_count == 0 && plan.channels != 4 &&
         plan.window[2] % 32 == 0;
}

int32_t resize_to_planes(const vtp_plan& plan, const Axes& axes, const Image& source, uint8_t* out) {
  const int32_t width = plan.window[2], height = plan.window[3];
  const int64_t stride = int64_t{width} * 3;
  const Image between = {memory().between.take(stride * source.height), stride, width, source.height};
  if (!between.data) return VTP_OUT_OF_MEMORY;
  kernels->horizontal_planes(source, axes.x, plan.flip_x, between);
  for (int32_t plane = 0; plane < plan.channels; ++plane) {
    // To the vertical pass, four bytes of a plane are a pixel.
    const Image in = {between.data + int64_t{plane} * width, stride, width / 4, source.height};
    const Image planar = {out + int64_t{plane} * width * height, width, width / 4, height};
    kernels->vertical(in, axes.y, plan.flip_y, planar);
  }
  memory().trim();
  return VTP_OK;
}

int32_t finish(const vtp_plan& plan, const Axes& axes, const Image& source, uint8_t* out) {
  if (ends_in_planes(plan, axes)) return resize_to_planes(plan, axes, source, out);
  Image first, second;
  const int32_t width = plan.window[2], height = plan.window[3];
  if (!take(memory().image, width, height, first) || !take(memory().other, width, height, second))
    return VTP_OUT_OF_MEMORY;
  int32_t status = resize(plan, axes, source, first);
  if (status != VTP_OK) return status;
  const Image *image = &first, *other = &second;
  for (int32_t i = 0; i < plan.op_count; ++i)
    if (kernels->operate(plan.ops[i], *image, *other) == other) std::swap(image, other);
  kernels->to_planes(*image, plan.channels, out);
  memory().trim();
  return VTP_OK;
}

// What of the source the axes need.
Rectangle needed(const vtp_plan& plan, const Axes& axes) {
  return {plan.crop[0] + axes.x.start, plan.crop[1] + axes.y.start, axes.x.inputs, axes.y.inputs};
}

}  // namespace
}  // namespace vtp

VTP_EXPORT int32_t vtp_abi_version(void) { return VTP_ABI_VERSION; }

VTP_EXPORT const char* vtp_isa(void) { return vtp::kernels->isa; }

VTP_EXPORT int32_t vtp_open_libjpeg(const char* path, char* reason, int32_t reason_size) {
  return vtp::open_libjpeg(path, reason, reason_size);
}

VTP_EXPORT int32_t vtp_read_header(const uint8_t* data, int64_t size, vtp_header* header) {
  vtp::Header found;
  const int32_t status = vtp::read_header(data, size, found);
  *header = found;
  return status;
}

VTP_EXPORT int32_t vtp_from_jpeg(const uint8_t* data, int64_t size, const vtp_plan* plan, uint8_t* out) {
  using namespace vtp;
  Axes axes;
  int32_t status = check(*plan);
  if (status == VTP_OK) status = make_axes(*plan, axes);
  if (status != VTP_OK) return status;
  Pixels pixels;
  const Rectangle part = needed(*plan, axes);
  status = decode(data, size, part, memory().decoded, pixels);
  if (status != VTP_OK) {
    memory().trim();
    return status;
  }
  Image source = {pixels.data, pixels.stride, part.width, part.height};
  if (plan->grey) kernels->to_grey(source);
  return finish(*plan, axes, source, out);
}

VTP_EXPORT int32_t vtp_from_pixels(const uint8_t* pixels, int64_t stride, int32_t width, int32_t height,
                                   const vtp_plan* plan, uint8_t* out) {
  using namespace vtp;
  Axes axes;
  int32_t status = check(*plan);
  if (status == VTP_OK && !inside(plan->crop, width, height)) status = VTP_BAD_PLAN;
  if (status == VTP_OK) status = make_axes(*plan, axes);
  if (status != VTP_OK) return status;
  const Rectangle part = needed(*plan, axes);
  // A copy: kernels read past the last pixel, and not everybody leaves room for that.
  Image source;
  if (!take(memory().decoded, part.width, part.height, source)) return VTP_OUT_OF_MEMORY;
  for (int32_t y = 0; y < part.height; ++y)
    memcpy(source.row(y), pixels + (int64_t{part.top} + y) * stride + int64_t{part.left} * 4, int64_t{part.width} * 4);
  if (plan->grey) kernels->to_grey(source);
  return finish(*plan, axes, source, out);
}
