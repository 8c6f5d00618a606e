// C ABI between vim_train.data.pixels (Python, ctypes) and the pixel library.
//
// A JPEG, or pixels that somebody else decoded, to the augmented image that a batch holds: the steps of a plan, each of
// them with the pixels that Pillow gives. No PyTorch, no Python, no C++ types and no exceptions cross this boundary, and
// nothing is kept between two calls but each thread's scratch memory: any number of threads may call at once.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VTP_ABI_VERSION 1

enum vtp_status {
  VTP_OK = 0,
  VTP_BAD_SIZE = 1,       // a struct's size field does not match: Python and library come from different builds
  VTP_BAD_PLAN = 2,       // a plan outside its image, or an operation that does not exist
  VTP_OUT_OF_MEMORY = 3,
  VTP_NOT_FOR_US = 4,     // no plain JPEG, or damaged: Pillow has to look at it
  VTP_NO_LIBJPEG = 5,
};

enum vtp_filter { VTP_NEVER = 0, VTP_BILINEAR = 2, VTP_BICUBIC = 3 };  // Pillow's numbers

// What a header says. `plain`: 1 where Pillow is sure to accept the header as it stands, 0 where its parsers of EXIF
// and the like have to be asked.
typedef struct {
  int32_t width, height;
  int32_t components;  // 1 or 3
  int32_t plain;
} vtp_header;

// Operations on the resized image. All but VTP_AFFINE take at most one number, value[0].
enum vtp_operation {
  VTP_INVERT = 0,
  VTP_POSTERIZE = 1,      // bits that are kept, 0 to 8
  VTP_SOLARIZE = 2,       // threshold: values from it on are inverted
  VTP_SOLARIZE_ADD = 3,   // added to values under 128
  VTP_AUTOCONTRAST = 4,
  VTP_EQUALIZE = 5,
  VTP_BRIGHTNESS = 6,     // factor
  VTP_CONTRAST = 7,       // factor
  VTP_COLOR = 8,          // factor
  VTP_SHARPNESS = 9,      // factor
  VTP_AFFINE = 10,        // value: the matrix that takes output to input coordinates; fill; filter
};

typedef struct {
  int32_t code;
  int32_t filter;
  uint8_t fill[4];  // R, G, B and unused
  int32_t reserved;
  double value[6];
} vtp_op;

// crop -> resize -> window -> flip -> operations -> out.
typedef struct {
  uint32_t size;          // sizeof(vtp_plan)
  int32_t grey;           // first of all, turn colour to grey as Pillow's convert("L") does
  int32_t crop[4];        // left, top, width, height in the source
  int32_t resized[2];     // width, height that the crop is resized to
  int32_t window[4];      // left, top, width, height of the part of it that is wanted
  int32_t filter;         // vtp_filter
  int32_t vertical_first; // resize along columns before rows
  int32_t flip_x, flip_y;
  int32_t channels;       // out: 1 or 3 planes; 4: interleaved R, G, B and an unused byte, as Pillow stores RGB
  int32_t op_count;
  const vtp_op* ops;
} vtp_plan;

int32_t vtp_abi_version(void);
const char* vtp_isa(void);  // "avx2", …: the kernels in use

// Use the libjpeg at `path` from now on. Returns its version of the interface (62, 80), or 0 if it cannot be used;
// `reason` then holds why, in one line. To be called once, before any thread decodes.
int32_t vtp_open_libjpeg(const char* path, char* reason, int32_t reason_size);

// The header of a JPEG of one or three components. VTP_NOT_FOR_US for every other file.
int32_t vtp_read_header(const uint8_t* data, int64_t size, vtp_header* header);

// Decode what the plan needs of a JPEG and write the result to `out`.
int32_t vtp_from_jpeg(const uint8_t* data, int64_t size, const vtp_plan* plan, uint8_t* out);

// The same from pixels: R, G, B and an unused byte each, rows `stride` bytes apart, all of a width x height image.
int32_t vtp_from_pixels(const uint8_t* pixels, int64_t stride, int32_t width, int32_t height, const vtp_plan* plan,
                        uint8_t* out);

#ifdef __cplusplus
}
#endif
