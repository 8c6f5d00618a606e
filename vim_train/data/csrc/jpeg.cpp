// Decoding a rectangle of a JPEG.
//
// libjpeg-turbo can leave out the rows above and the columns beside a rectangle, but where it interpolates chroma it
// treats the rectangle's edge as the image's, and does not interpolate what is less than three samples wide; with a row
// more above and kMargin columns beside it, the rectangle's own pixels are those of the whole image. Rows below are not
// decoded. So that a file that is cut off there is not taken for a good one, what follows the last row that was decoded
// must be the coded data's end: the next marker must be EOI. Everything that is in the least irregular is
// VTP_NOT_FOR_US, and Pillow says what becomes of it.
#include "jpeg.h"

#include <setjmp.h>
#include <string.h>

#include <algorithm>

#include "entropy.h"
#include "libjpeg.h"

namespace vtp {
namespace {

constexpr int32_t kMargin = 8;  // a chroma sample is at most 4 pixels wide, and interpolation takes 3 of them

struct Errors : jpeg::ErrorManager {
  char reserve[256];  // a newer library's manager may be longer than ours
  jmp_buf back;
};

void give_up(jpeg::Decompressor* decompressor) { longjmp(static_cast<Errors*>(decompressor->errors)->back, 1); }

// Level -1 is a warning: the data are damaged. Higher levels only trace.
void on_message(jpeg::Decompressor* decompressor, int level) {
  if (level < 0) give_up(decompressor);
}

void be_silent(jpeg::Decompressor*) {}

int no_more_data(jpeg::Decompressor* decompressor) {
  give_up(decompressor);
  return 0;
}

void skip(jpeg::Decompressor* decompressor, long count) {
  if (count <= 0) return;
  jpeg::Source& source = *decompressor->source;
  if (static_cast<size_t>(count) > source.left) give_up(decompressor);
  source.next += count;
  source.left -= static_cast<size_t>(count);
}

// Whether the coded data that end at or after `at` end in EOI. The decoder may have taken a marker already: two bytes
// back is inside it, or inside coded data.
bool ends_in_eoi(const uint8_t* begin, const uint8_t* at, const uint8_t* end) {
  at = std::max(begin, at - 2);
  while (at < end && (at = static_cast<const uint8_t*>(memchr(at, 0xff, end - at)))) {
    if (++at == end) return false;
    bool coded = *at == 0 || *at == 0xff || (*at >= 0xd0 && *at <= 0xd7);  // a stuffed byte, a fill byte, a restart
    if (!coded) return *at == 0xd9;
  }
  return false;
}

// Progressive data with a scan missing are smoothed over block borders, further than our margin.
bool complete(const jpeg::Decompressor& decompressor) {
  if (!decompressor.precision) return true;
  for (int c = 0; c < decompressor.components; ++c)
    for (int i = 0; i < 64; ++i)
      if (decompressor.precision[c][i] != 0) return false;
  return true;
}

struct Job {
  const uint8_t* data;
  int64_t size;
  bool subsampled;
  Rectangle wanted;
  Entropy* entropy;  // null: libjpeg's own decoder has to do
  Scratch* scratch;
  Pixels* pixels;
};

// The part that libjpeg may leave by longjmp: plain data only.
int32_t run(const jpeg::Functions& lib, jpeg::Decompressor* decompressor, const Job& job) {
  const Rectangle& wanted = job.wanted;
  if (lib.read_header(decompressor, 1) != 1) return VTP_NOT_FOR_US;
  if (static_cast<int64_t>(wanted.left) + wanted.width > decompressor->width ||
      static_cast<int64_t>(wanted.top) + wanted.height > decompressor->height)
    return VTP_BAD_PLAN;
  decompressor->out_space = jpeg::kRgbx;
  if (!lib.start(decompressor)) return VTP_NOT_FOR_US;
  if (!complete(*decompressor)) return VTP_NOT_FOR_US;
  if (job.entropy) take_over(decompressor, *job.entropy);

  const int32_t margin = job.subsampled ? kMargin : 0;
  uint32_t left = std::max(wanted.left - margin, 0);
  uint32_t width = std::min<uint32_t>(wanted.left + wanted.width + margin, decompressor->width) - left;
  if (width < decompressor->width) lib.crop(decompressor, &left, &width);
  uint32_t first = job.subsampled && wanted.top > 0 ? wanted.top - 1 : wanted.top;
  uint32_t rows = wanted.top + wanted.height - first;

  int64_t stride = (static_cast<int64_t>(width) * 4 + 63) & ~int64_t{63};
  uint8_t* out = job.scratch->take(stride * rows);
  if (!out) return VTP_OUT_OF_MEMORY;
  if (first > 0 && lib.skip_rows(decompressor, first) != first) return VTP_NOT_FOR_US;
  for (uint32_t done = 0; done < rows;) {
    constexpr uint32_t kAtOnce = 8;
    uint8_t* targets[kAtOnce];
    uint32_t count = std::min(kAtOnce, rows - done);
    for (uint32_t i = 0; i < count; ++i) targets[i] = out + (done + i) * stride;
    uint32_t read = lib.read_rows(decompressor, targets, count);
    if (read == 0) return VTP_NOT_FOR_US;
    done += read;
  }
  const uint8_t* end = job.data + job.size;
  // With several scans everything up to EOI was read before the first row came out.
  if (!lib.several_scans(decompressor) && !ends_in_eoi(job.data, decompressor->source->next, end)) return VTP_NOT_FOR_US;
  *job.pixels = {out + (wanted.top - first) * stride + (static_cast<int64_t>(wanted.left) - left) * 4, stride};
  return VTP_OK;
}

// A thread's decompressor, kept from one image to the next: a new one asks the processor what it can do, which takes
// 13 us where a hypervisor answers. Of an image, only its tables stay.
struct Kept {
  alignas(16) char memory[jpeg::kLargestDecompressor];
  Errors errors;
  Entropy entropy;
  bool alive = false;

  ~Kept() { destroy(); }

  jpeg::Decompressor* decompressor() { return reinterpret_cast<jpeg::Decompressor*>(memory); }

  void destroy() {
    if (alive) libjpeg()->destroy(decompressor());
    alive = false;
  }
};

}  // namespace

int32_t decode(const uint8_t* data, int64_t size, const Rectangle& wanted, Scratch& scratch, Pixels& pixels) {
  const jpeg::Functions* lib = libjpeg();
  if (!lib) return VTP_NO_LIBJPEG;
  Header header;
  if (read_header(data, size, header) != VTP_OK) return VTP_NOT_FOR_US;
  static thread_local Kept kept;
  if (!header.self_reliant) kept.destroy();  // a table that is not there must be missed, not taken from another image
  jpeg::Decompressor* decompressor = kept.decompressor();
  jpeg::Source source = {data, static_cast<size_t>(size), be_silent, no_more_data, skip, lib->resync, be_silent};
  Entropy* entropy = header.self_reliant && lib->version == 62 ? &kept.entropy : nullptr;
  const Job job = {data, size, header.subsampled, wanted, entropy, &scratch, &pixels};

  int32_t status = VTP_NOT_FOR_US;
  if (setjmp(kept.errors.back) == 0) {
    if (!kept.alive) {
      memset(kept.memory, 0, sizeof kept.memory);
      decompressor->errors = lib->std_error(&kept.errors);
      kept.errors.error_exit = give_up;
      kept.errors.emit_message = on_message;
      kept.errors.output_message = be_silent;
      kept.alive = true;
      lib->create(decompressor, lib->version, lib->size);
    }
    decompressor->source = &source;
    status = run(*lib, decompressor, job);
    if (status == VTP_OK && header.self_reliant) lib->abort(decompressor);
    else kept.destroy();
  } else {
    kept.destroy();
    status = VTP_NOT_FOR_US;
  }
  return status;
}

}  // namespace vtp
