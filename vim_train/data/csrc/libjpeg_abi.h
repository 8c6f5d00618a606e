// What we use of libjpeg's binary interface, declared here so that no header has to be installed.
//
// libjpeg-turbo emulates version 62 (as Pillow's wheels and most systems build it) or version 80 (Ubuntu, conda). The
// fields below stand at the same offsets in both; those that differ come later and are not touched. The library itself
// says which version it is and how large its decompressor is (libjpeg.cpp asks), and refuses any other size.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace vtp::jpeg {

struct Decompressor;

struct ErrorManager {
  void (*error_exit)(Decompressor*);
  void (*emit_message)(Decompressor*, int level);
  void (*output_message)(Decompressor*);
  void (*format_message)(Decompressor*, char*);
  void (*reset)(Decompressor*);
  int code;
  union {
    int number[8];
    char text[80];
  } parameter;
  int trace_level;
  long warnings;
  const char* const* messages;
  int last_message;
  const char* const* more_messages;
  int first_more, last_more;
};

struct Source {
  const uint8_t* next;
  size_t left;
  void (*init)(Decompressor*);
  int (*fill)(Decompressor*);
  void (*skip)(Decompressor*, long);
  int (*resync)(Decompressor*, int desired);
  void (*term)(Decompressor*);
};

enum ColorSpace : int { kGrey = 1, kRgb = 2, kYcc = 3, kRgbx = 7 };

struct Decompressor {
  ErrorManager* errors;
  void* memory;
  void* progress;
  void* client;
  int is_decompressor;
  int state;
  Source* source;
  uint32_t width, height;
  int components;
  ColorSpace space, out_space;
  uint32_t scale_num, scale_denom;
  double gamma;
  int buffered, raw, dct, fancy_upsampling, block_smoothing;
  int quantize, dither, two_pass, colors, one_pass, external, second_pass;
  uint32_t out_width, out_height;
  int out_color_components, out_components, rows_at_once;
  int colormap_size;
  void* colormap;
  uint32_t out_row;
  int input_scan;
  uint32_t input_imcu_row;
  int output_scan;
  uint32_t output_imcu_row;
  int (*precision)[64];  // of each coefficient of each component: 0 where complete; null unless progressive
};

constexpr size_t kLargestDecompressor = 2048;

struct Functions {
  ErrorManager* (*std_error)(ErrorManager*);
  void (*create)(Decompressor*, int version, size_t size);
  void (*abort)(Decompressor*);
  void (*destroy)(Decompressor*);
  int (*read_header)(Decompressor*, int require_image);
  int (*start)(Decompressor*);
  uint32_t (*read_rows)(Decompressor*, uint8_t** rows, uint32_t count);
  uint32_t (*skip_rows)(Decompressor*, uint32_t count);
  void (*crop)(Decompressor*, uint32_t* left, uint32_t* width);
  int (*several_scans)(Decompressor*);
  int (*resync)(Decompressor*, int desired);
  int version;
  size_t size;
};

}  // namespace vtp::jpeg
