// What we use of libjpeg's binary interface, declared here so that no header has to be installed.
//
// libjpeg-turbo emulates version 62 (as Pillow's wheels and most systems build it) or version 80 (Ubuntu, conda). The
// fields below stand at the same offsets in both, up to `components_of_image`; what follows is version 62's, and touched
// with no other. The library itself says which version it is and how large its decompressor is (libjpeg.cpp asks), and
// refuses any other size.
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

struct HuffmanTable {
  uint8_t counts[17];  // codes of each length from 1 to 16
  uint8_t symbols[256];
  int sent;
};

struct Component {
  int id, index, h_samples, v_samples, quantisation_table, dc_table, ac_table;
};

struct EntropyDecoder {
  void (*start_pass)(Decompressor*);
  int (*decode_mcu)(Decompressor*, int16_t (**blocks)[64]);  // null: the coefficients are not wanted
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
  void* quantisation_tables[4];
  HuffmanTable *dc_tables[4], *ac_tables[4];
  int bits_of_sample;
  Component* components_of_image;
  int progressive, arithmetic;
  uint8_t arithmetic_dc_low[16], arithmetic_dc_high[16], arithmetic_ac[16];
  uint32_t restart_interval;
  int saw_jfif;
  uint8_t jfif_major, jfif_minor, density_unit;
  uint16_t x_density, y_density;
  int saw_adobe;
  uint8_t adobe_transform;
  int cosited;
  void* markers;
  int most_h_samples, most_v_samples, least_dct_size;
  uint32_t imcu_rows;
  void* range_limit;
  int components_in_scan_count;
  Component* components_in_scan[4];
  uint32_t mcus_in_row, mcu_rows;
  int blocks_in_mcu, component_of_block[10];
  int spectral_start, spectral_end, approximation_high, approximation_low;
  int unread_marker;
  void *master, *main, *coefficients, *post, *input, *marker;
  EntropyDecoder* entropy;
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
