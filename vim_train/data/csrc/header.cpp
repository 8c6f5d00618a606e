// Reading a JPEG's header: its size, and whether Pillow's view of it is beyond doubt.
#include <string.h>

#include "jpeg.h"

namespace vtp {
namespace {

struct Segment {
  const uint8_t* data;
  int64_t size;

  bool starts_with(const char* text, int64_t length) const { return size >= length && memcmp(data, text, length) == 0; }
};

int64_t big_endian_16(const uint8_t* at) { return at[0] << 8 | at[1]; }

// Pillow reads these segments with code that may raise; what it makes of them is for Pillow to say.
bool doubtful(int marker, const Segment& segment) {
  switch (marker) {
    case 0xe0: return segment.starts_with("JFIF", 4) && segment.size < 7;
    case 0xe1: return segment.starts_with("Exif\0\0", 6);
    case 0xe2: return segment.starts_with("MPF\0", 4) || (segment.starts_with("ICC_PROFILE\0", 12) && segment.size < 14);
    case 0xed: return segment.starts_with("Photoshop 3.0\0", 14);
    case 0xee: return segment.starts_with("Adobe", 5) && segment.size < 7;
  }
  return false;
}

// Which tables a header has defined: a bit each.
struct Tables {
  uint32_t quantisation = 0, huffman[2] = {0, 0};  // DC and AC
};

// False: the segment's tables are not whole.
bool read_quantisation_tables(Segment segment, Tables& tables) {
  while (segment.size > 0) {
    int64_t table = segment.data[0] >> 4 ? 129 : 65;
    if (segment.data[0] >> 4 > 1 || segment.size < table) return false;
    tables.quantisation |= 1u << (segment.data[0] & 15);
    segment.data += table;
    segment.size -= table;
  }
  return true;
}

// What is not whole is for libjpeg to refuse.
void read_huffman_tables(Segment segment, Tables& tables) {
  while (segment.size >= 17) {
    int64_t table = 17;
    for (int i = 1; i <= 16; ++i) table += segment.data[i];
    tables.huffman[segment.data[0] >> 4 & 1] |= 1u << (segment.data[0] & 15);
    segment.data += table;
    segment.size -= table;
  }
}

bool read_frame(const Segment& segment, Header& header) {
  if (segment.size < 6 || segment.data[0] != 8) return false;
  header.height = static_cast<int32_t>(big_endian_16(segment.data + 1));
  header.width = static_cast<int32_t>(big_endian_16(segment.data + 3));
  header.components = segment.data[5];
  if (header.height <= 0 || header.width <= 0 || (header.components != 1 && header.components != 3) ||
      segment.size != 6 + 3 * header.components)
    return false;
  for (int c = 1; c < header.components; ++c) header.subsampled |= segment.data[7 + 3 * c] != segment.data[7];
  return true;
}

bool has(uint32_t bits, int number) { return bits >> (number & 15) & 1; }

// Whether a frame's only scan, `scan`, finds all its tables among `tables`.
bool self_reliant(const Segment& frame, const Segment& scan, const Tables& tables) {
  const int components = frame.data[5];
  if (frame.size < 6 + 3 * components || scan.size < 1 + 2 * components || scan.data[0] != components) return false;
  bool found = true;
  for (int c = 0; c < components; ++c) {
    const uint8_t coders = scan.data[2 + 2 * c];
    found = found && has(tables.quantisation, frame.data[8 + 3 * c]) && has(tables.huffman[0], coders >> 4) &&
            has(tables.huffman[1], coders);
  }
  return found;
}

}  // namespace

int32_t read_header(const uint8_t* data, int64_t size, Header& header) {
  header = {{0, 0, 0, 1}, false, false};
  if (size < 4 || data[0] != 0xff || data[1] != 0xd8) return VTP_NOT_FOR_US;
  Tables tables;
  Segment frame = {nullptr, 0};
  bool progressive = false;
  for (int64_t at = 2; at + 4 <= size;) {
    if (data[at] != 0xff) return VTP_NOT_FOR_US;
    int marker = data[at + 1];
    Segment segment = {data + at + 4, big_endian_16(data + at + 2) - 2};
    if (segment.size < 0 || at + 4 + segment.size > size) return VTP_NOT_FOR_US;
    switch (marker) {
      case 0xc0:  // baseline, extended and progressive frames, Huffman coded
      case 0xc1:
      case 0xc2:
        if (frame.data || !read_frame(segment, header)) return VTP_NOT_FOR_US;
        frame = segment;
        progressive = marker == 0xc2;
        break;
      case 0xc4: read_huffman_tables(segment, tables); break;
      case 0xdd:  // restart interval, comment: passed over by Pillow, checked by libjpeg
      case 0xfe: break;
      case 0xdb:
        if (!read_quantisation_tables(segment, tables)) return VTP_NOT_FOR_US;
        break;
      case 0xda:
        header.self_reliant = frame.data && !progressive && self_reliant(frame, segment, tables);
        return frame.data ? VTP_OK : VTP_NOT_FOR_US;
      default:
        if (marker < 0xe0 || marker > 0xef) return VTP_NOT_FOR_US;
        if (doubtful(marker, segment)) header.plain = 0;
    }
    at += 4 + segment.size;
  }
  return VTP_NOT_FOR_US;
}

}  // namespace vtp
