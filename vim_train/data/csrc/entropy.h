// Huffman decoding of a baseline JPEG in libjpeg's place.
//
// For large JPEGs it is half of libjpeg's time. Here a table of the next bits gives a coefficient's run, value and
// length at once, where libjpeg takes a code and then the bits behind it. libjpeg calls it for each MCU, as it would its
// own decoder, and does the rest.
#pragma once

#include "libjpeg_abi.h"
#include "memory.h"

namespace vtp {

class Codes {
 public:
  static constexpr int kBits = 10;
  static constexpr uint32_t kLonger = 0;

  // Does nothing where these codes are the ones it has.
  void set(const jpeg::HuffmanTable& table, bool ac);

  // The code that `bits` begin with, a byte each: its bits and its value's together, its own, its value's, and the run
  // of zeros before the value. kLonger: it has more than kBits bits.
  uint32_t starting(uint64_t bits) const { return starting_[bits >> (64 - kBits)]; }

  // The same of a code of more than kBits bits; kLonger: there is none.
  uint32_t longer(uint64_t bits) const;

 private:
  uint32_t of_code(int code, int length) const;

  uint32_t starting_[1 << kBits];
  jpeg::HuffmanTable table_ = {};
  int32_t end_[17];     // of each length: the first code that is longer
  int32_t offset_[17];  // of each length: a code's place in the table, less the code
  bool ac_;
};

struct Entropy {
  Codes dc[4], ac[4];

  // The scan of the image that is being decoded, without stuffed bytes.
  Scratch scan;
  const uint8_t *begin, *end, *next;
  uint64_t bits;  // the next ones, the first of them highest
  int left;       // of them, those that `next` is ahead
  int last_dc[4];
};

// Take over from libjpeg's decoder, after jpeg_start_decompress, if it can do this image: then `entropy` is in use until
// the image is done, and the source stands behind the scan. Errors leave through the decompressor's error_exit.
void take_over(jpeg::Decompressor* decompressor, Entropy& entropy);

}  // namespace vtp
