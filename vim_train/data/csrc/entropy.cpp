#include "entropy.h"

#include <stdlib.h>
#include <string.h>

// Inlined into functions that are compiled for more than one instruction set.
#define VTP_INLINE inline __attribute__((always_inline))

namespace vtp {
namespace {

constexpr int kEndOfBlock = 64;  // as a run: beyond every place
constexpr int kLongest = Codes::kBits + 15;  // bits of a code and of its value
constexpr int kFills = 56;       // bits that are there after `fill`
constexpr int kAtOnce = kFills / kLongest;
constexpr int64_t kBehind = 512;     // zeros behind a scan: more than a damaged block can take
constexpr int kLargestDc = 1 << 20;  // no image has it, and a sum of so few cannot overflow

// T.81, figure A.6: where a coefficient stands in its block. What is beyond the block stays at its end, as in libjpeg; an
// end of block, which has the value 0, is so written to where nothing was.
struct NaturalOrder {
  uint8_t place[64 + kEndOfBlock];

  constexpr NaturalOrder() : place{} {
    int x = 0, y = 0;
    for (int k = 0; k < 64 + kEndOfBlock; ++k) {
      place[k] = static_cast<uint8_t>(k < 64 ? y * 8 + x : 63);
      const bool up = (x + y) % 2 == 0;
      int& forward = up ? x : y;
      int& back = up ? y : x;
      if (forward == 7) {
        ++back;
      } else {
        ++forward;
        if (back > 0) --back;
      }
    }
  }
};
constexpr NaturalOrder kNaturalOrder;
static_assert(kNaturalOrder.place[5] == 2 && kNaturalOrder.place[35] == 56 && kNaturalOrder.place[62] == 62);

inline uint64_t big_endian_64(const uint8_t* at) {
  uint64_t value;
  memcpy(&value, at, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  value = __builtin_bswap64(value);
#endif
  return value;
}

// The bits of a scan, in registers while an MCU is decoded.
struct Reader {
  const uint8_t* next;
  uint64_t bits;
  int left;

  VTP_INLINE void fill() {
    bits |= big_endian_64(next) >> left;
    next += (63 - left) >> 3;
    left |= kFills;
  }

  VTP_INLINE void drop(uint32_t count) {
    bits <<= count & 63;
    left -= static_cast<int>(count & 63);
  }
};

[[noreturn]] void give_up(jpeg::Decompressor* decompressor) {
  decompressor->errors->error_exit(decompressor);
  __builtin_unreachable();
}

// By value: a reader whose address is taken does not stay in registers.
struct Longer {
  Reader reader;
  uint32_t code;
};

__attribute__((noinline)) Longer read_longer(Reader reader, const Codes& codes) {
  reader.fill();
  return {reader, codes.longer(reader.bits)};
}

struct Coefficient {
  int run, value;
};

// The next one. `fill` makes room for kAtOnce of them.
VTP_INLINE Coefficient read(Reader& reader, const Codes& codes, jpeg::Decompressor* decompressor) {
  uint32_t code = codes.starting(reader.bits);
  if (__builtin_expect(code == Codes::kLonger, 0)) {
    const Longer longer = read_longer(reader, codes);
    reader = longer.reader;
    code = longer.code;
    if (code == Codes::kLonger) give_up(decompressor);
  }
  // T.81, F.2.2.1, EXTEND: of a negative value the first bit is 0, and what is there is the value less the smallest.
  const uint64_t bits = reader.bits << (code >> 8 & 63);
  const uint32_t size = code >> 16 & 63;
  const uint64_t read = bits >> 1 >> (63 - size);
  const uint64_t smallest = ((uint64_t{1} << size) - 1) & static_cast<uint64_t>(~static_cast<int64_t>(bits) >> 63);
  reader.drop(code);
  return {static_cast<int>(code >> 24), static_cast<int>(read - smallest)};
}

template <bool kept>
VTP_INLINE void decode_block(Reader& reader, const Codes& ac, int16_t* block, jpeg::Decompressor* decompressor) {
  for (int k = 1;;) {
    reader.fill();
#pragma GCC unroll 8
    for (int i = 0; i < kAtOnce; ++i) {
      const Coefficient found = read(reader, ac, decompressor);
      k += found.run;
      if (kept) block[kNaturalOrder.place[k]] = static_cast<int16_t>(found.value);
      if (++k >= 64) return;
    }
  }
}

VTP_INLINE int decode_blocks(jpeg::Decompressor* decompressor, int16_t (**blocks)[64]) {
  Entropy& entropy = *static_cast<Entropy*>(decompressor->client);
  Reader reader = {entropy.next, entropy.bits, entropy.left};
  for (int b = 0; b < decompressor->blocks_in_mcu; ++b) {
    const int component = decompressor->component_of_block[b];
    const jpeg::Component& of = *decompressor->components_in_scan[component];
    reader.fill();
    const int difference = read(reader, entropy.dc[of.dc_table], decompressor).value;
    const int dc = entropy.last_dc[component] += difference;
    if (dc > kLargestDc || dc < -kLargestDc) give_up(decompressor);
    if (blocks) {
      int16_t* block = *blocks[b];
      block[0] = static_cast<int16_t>(dc);
      decode_block<true>(reader, entropy.ac[of.ac_table], block, decompressor);
    } else {
      decode_block<false>(reader, entropy.ac[of.ac_table], nullptr, decompressor);
    }
    if ((reader.next - entropy.end) * 8 > reader.left) give_up(decompressor);  // the data have ended early
  }
  entropy.next = reader.next;
  entropy.bits = reader.bits;
  entropy.left = reader.left;
  return 1;
}

int decode_mcu(jpeg::Decompressor* decompressor, int16_t (**blocks)[64]) { return decode_blocks(decompressor, blocks); }

#if defined(__x86_64__)
// Shifts by a register's value are a tenth of the work.
__attribute__((target("bmi2"))) int decode_mcu_bmi2(jpeg::Decompressor* decompressor, int16_t (**blocks)[64]) {
  return decode_blocks(decompressor, blocks);
}

bool bmi2() {
  const char* wanted = getenv("VIM_TRAIN_ISA");
  __builtin_cpu_init();
  return __builtin_cpu_supports("bmi2") && !(wanted && strcmp(wanted, "baseline") == 0);
}
int (*const chosen_decode_mcu)(jpeg::Decompressor*, int16_t (**)[64]) = bmi2() ? decode_mcu_bmi2 : decode_mcu;
#else
int (*const chosen_decode_mcu)(jpeg::Decompressor*, int16_t (**)[64]) = decode_mcu;
#endif

// Copy a scan up to the next marker, without stuffed bytes, and put the source behind it. False: it is irregular.
bool take_scan(jpeg::Source& source, Entropy& entropy) {
  uint8_t* out = entropy.scan.take(static_cast<int64_t>(source.left) + kBehind);
  if (!out) return false;
  entropy.begin = out;
  const uint8_t *at = source.next, *end = at + source.left;
  for (;;) {
    const void* found = memchr(at, 0xff, static_cast<size_t>(end - at));
    if (!found || static_cast<const uint8_t*>(found) + 1 == end) return false;
    const uint8_t* stop = static_cast<const uint8_t*>(found);
    const bool stuffed = stop[1] == 0;
    const size_t length = static_cast<size_t>(stop - at) + stuffed;
    memcpy(out, at, length);
    out += length;
    at = stop;
    if (stop[1] == 0xff) return false;
    if (!stuffed) break;
    at += 2;
  }
  memset(out, 0, kBehind);
  entropy.end = out;
  source.left -= static_cast<size_t>(at - source.next);
  source.next = at;
  return true;
}

}  // namespace

// Of an AC code, a run of zeros and the bits of a value; of a DC code, the latter alone.
uint32_t Codes::of_code(int code, int length) const {
  const uint32_t symbol = table_.symbols[(code + offset_[length]) & 255];
  const uint32_t size = symbol & 15, bits = static_cast<uint32_t>(length);
  uint32_t run = ac_ ? symbol >> 4 : 0;
  if (ac_ && size == 0 && run != 15) run = kEndOfBlock;
  return run << 24 | size << 16 | bits << 8 | (bits + size);
}

uint32_t Codes::longer(uint64_t bits) const {
  for (int length = kBits + 1; length <= 16; ++length) {
    const int code = static_cast<int>(bits >> (64 - length));
    if (code < end_[length]) return of_code(code, length);
  }
  return kLonger;
}

void Codes::set(const jpeg::HuffmanTable& table, bool ac) {
  if (memcmp(table_.counts, table.counts, sizeof table.counts) == 0 &&
      memcmp(table_.symbols, table.symbols, sizeof table.symbols) == 0)
    return;
  table_ = table;
  ac_ = ac;
  for (uint32_t& each : starting_) each = kLonger;
  int code = 0, place = 0;
  for (int length = 1; length <= 16; ++length, code <<= 1) {
    offset_[length] = place - code;
    for (int i = 0; i < table.counts[length]; ++i, ++code, ++place) {
      const int behind = kBits - length;
      if (behind < 0 || code >= 1 << length) continue;
      for (int rest = 0; rest < 1 << behind; ++rest) starting_[code << behind | rest] = of_code(code, length);
    }
    end_[length] = table.counts[length] ? code : 0;
  }
}

void take_over(jpeg::Decompressor* decompressor, Entropy& entropy) {
  if (decompressor->progressive || decompressor->arithmetic || decompressor->restart_interval) return;
  for (int c = 0; c < decompressor->components_in_scan_count; ++c) {
    const jpeg::Component& component = *decompressor->components_in_scan[c];
    const jpeg::HuffmanTable* dc = decompressor->dc_tables[component.dc_table];
    const jpeg::HuffmanTable* ac = decompressor->ac_tables[component.ac_table];
    if (!dc || !ac) return;
    entropy.dc[component.dc_table].set(*dc, false);
    entropy.ac[component.ac_table].set(*ac, true);
    entropy.last_dc[c] = 0;
  }
  if (!take_scan(*decompressor->source, entropy)) return;
  entropy.next = entropy.begin;
  entropy.bits = 0;
  entropy.left = 0;
  decompressor->client = &entropy;
  decompressor->entropy->decode_mcu = chosen_decode_mcu;
}

}  // namespace vtp
