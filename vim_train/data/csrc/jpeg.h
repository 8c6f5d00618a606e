// Decoding a rectangle of a JPEG with the pixels that Pillow gives it.
#pragma once

#include "memory.h"
#include "pixels.h"

namespace vtp {

struct Rectangle {
  int32_t left, top, width, height;
};

// Pixels of 4 bytes, at least kSlack bytes of readable memory behind the last.
struct Pixels {
  uint8_t* data = nullptr;
  int64_t stride = 0;
};

int32_t open_libjpeg(const char* path, char* reason, int32_t reason_size);

// What a header says, for us too.
struct Header : vtp_header {
  bool subsampled;   // some component has fewer samples than another
  bool self_reliant; // one scan, and every table that it uses is defined before it
};

int32_t read_header(const uint8_t* data, int64_t size, Header& header);

// The pixels of `wanted`, which lies inside the image; they stay in `scratch` until its next use.
int32_t decode(const uint8_t* data, int64_t size, const Rectangle& wanted, Scratch& scratch, Pixels& pixels);

}  // namespace vtp
