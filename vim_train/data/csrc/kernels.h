// The table of kernels that each instruction set provides and pixels.cpp chooses from. Plain data only: this header is
// shared by translation units built for different machines.
//
// Images are R, G, B and an unused byte a pixel, rows `stride` bytes apart, with kSlack bytes of readable memory behind
// the last pixel.
#pragma once

#include "pixels.h"
#include "weights.h"

namespace vtp {

struct Image {
  uint8_t* data;
  int64_t stride;
  int32_t width, height;

  uint8_t* row(int32_t y) const { return data + y * stride; }
};

struct Kernels {
  const char* isa;
  const Layout* layout;
  // Along rows, from `in`, whose pixels begin at axis.start; `flip` mirrors the output.
  void (*horizontal)(const Image& in, const Axis& axis, bool flip, const Image& out);
  // The same for a number of outputs that 8 divides, to a row of red, one of green and one of blue beside each other.
  void (*horizontal_planes)(const Image& in, const Axis& axis, bool flip, const Image& out);
  // Along columns; rows of both have room for width rounded up to 8 pixels.
  void (*vertical)(const Image& in, const Axis& axis, bool flip, const Image& out);
  void (*to_grey)(const Image& image);
  void (*to_planes)(const Image& image, int32_t planes, uint8_t* out);
  // One operation; `other` is of the same size. Returns which of the two holds the result.
  const Image* (*operate)(const vtp_op& op, const Image& image, const Image& other);
};

extern const Kernels kBaselineKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif

}  // namespace vtp
