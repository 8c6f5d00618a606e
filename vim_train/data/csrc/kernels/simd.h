// The multiply-adds of the resize. Included into one namespace an instruction set.
//
// Sums holds, for each digit of the weights, 32-bit sums: four channels of kRows rows' pixels in the horizontal pass, or
// consecutive bytes of a row in the vertical one, where four Sums take kBytes bytes.

constexpr int32_t kHalf = 1 << (kWeightBits - 1);  // for rounding

inline uint32_t load(const uint8_t* pixel) {
  uint32_t value;
  memcpy(&value, pixel, 4);
  return value;
}

#if defined(__AVX512VNNI__)

constexpr Layout kLayout = kQuads;
constexpr int kRows = 2;
constexpr int kBytes = 32;

struct Sums {
  __m256i high = _mm256_setzero_si256(), middle = _mm256_setzero_si256(), low = _mm256_set1_epi32(kHalf);

  // Lanes of four bytes, taps of one group, times the group's weights.
  void add(__m256i taps, const int32_t* weights) {
    high = _mm256_dpbusd_epi32(high, taps, _mm256_set1_epi32(weights[0]));
    middle = _mm256_dpbusd_epi32(middle, taps, _mm256_set1_epi32(weights[1]));
    low = _mm256_dpbusd_epi32(low, taps, _mm256_set1_epi32(weights[2]));
  }

  __m256i value() const {
    __m256i sum = _mm256_add_epi32(_mm256_slli_epi32(high, 16), _mm256_slli_epi32(middle, 8));
    return _mm256_srai_epi32(_mm256_add_epi32(sum, low), kWeightBits);
  }
};

// Four neighbouring pixels of kRows rows, one group of taps.
inline void add_pixels(Sums& sums, const uint8_t* at, int64_t stride, const int32_t* weights) {
  const __m256i by_channel =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  __m128i row0 = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
  __m128i row1 = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + stride));
  __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(row0), row1, 1);
  sums.add(_mm256_shuffle_epi8(both, by_channel), weights);
}

// What is left where the groups are odd in number: there is no such rest, as a group is all that add_pixels takes.
inline void add_rest(Sums&, const uint8_t*, int64_t, const int32_t*) {}

// kBytes bytes of a group's rows.
inline void add_rows(Sums sums[4], const uint8_t* const rows[4], int64_t x, const int32_t* weights) {
  __m256i row[4];
  for (int i = 0; i < 4; ++i) row[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[i] + x));
  __m256i low01 = _mm256_unpacklo_epi8(row[0], row[1]), high01 = _mm256_unpackhi_epi8(row[0], row[1]);
  __m256i low23 = _mm256_unpacklo_epi8(row[2], row[3]), high23 = _mm256_unpackhi_epi8(row[2], row[3]);
  sums[0].add(_mm256_unpacklo_epi16(low01, low23), weights);
  sums[1].add(_mm256_unpackhi_epi16(low01, low23), weights);
  sums[2].add(_mm256_unpacklo_epi16(high01, high23), weights);
  sums[3].add(_mm256_unpackhi_epi16(high01, high23), weights);
}

#elif defined(__AVX2__)

constexpr Layout kLayout = kPairs;
constexpr int kRows = 2;
constexpr int kBytes = 32;

struct Sums {
  __m256i high = _mm256_setzero_si256(), low = _mm256_set1_epi32(kHalf);

  void add(__m256i taps, const int32_t* weights) {
    high = _mm256_add_epi32(high, _mm256_madd_epi16(taps, _mm256_set1_epi32(weights[0])));
    low = _mm256_add_epi32(low, _mm256_madd_epi16(taps, _mm256_set1_epi32(weights[1])));
  }

  __m256i value() const {
    return _mm256_srai_epi32(_mm256_add_epi32(_mm256_slli_epi32(high, kLayout.bits), low), kWeightBits);
  }
};

inline __m256i load_pixels(const uint8_t* at, int64_t stride) {
  __m128i row0 = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
  __m128i row1 = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + stride));
  return _mm256_inserti128_si256(_mm256_castsi128_si256(row0), row1, 1);
}

// Pixels 0 and 1, or 2 and 3, paired channel by channel.
template <int first>
inline __m256i pair(__m256i pixels) {
  constexpr char o = 4 * first;
  return _mm256_shuffle_epi8(pixels, _mm256_broadcastsi128_si256(_mm_setr_epi8(
      o, -1, o + 4, -1, o + 1, -1, o + 5, -1, o + 2, -1, o + 6, -1, o + 3, -1, o + 7, -1)));
}

// Four neighbouring pixels of kRows rows, two groups of taps.
inline void add_pixels(Sums& sums, const uint8_t* at, int64_t stride, const int32_t* weights) {
  __m256i pixels = load_pixels(at, stride);
  sums.add(pair<0>(pixels), weights);
  sums.add(pair<2>(pixels), weights + kLayout.digits);
}

// Two pixels, where the groups are odd in number.
inline void add_rest(Sums& sums, const uint8_t* at, int64_t stride, const int32_t* weights) {
  sums.add(pair<0>(load_pixels(at, stride)), weights);
}

inline void add_rows(Sums sums[4], const uint8_t* const rows[2], int64_t x, const int32_t* weights) {
  __m256i row0 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[0] + x));
  __m256i row1 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[1] + x));
  __m256i low = _mm256_unpacklo_epi8(row0, row1), high = _mm256_unpackhi_epi8(row0, row1);
  const __m256i zero = _mm256_setzero_si256();
  sums[0].add(_mm256_unpacklo_epi8(low, zero), weights);
  sums[1].add(_mm256_unpackhi_epi8(low, zero), weights);
  sums[2].add(_mm256_unpacklo_epi8(high, zero), weights);
  sums[3].add(_mm256_unpackhi_epi8(high, zero), weights);
}

#elif defined(__SSE2__)

constexpr Layout kLayout = kPairs;
constexpr int kRows = 1;
constexpr int kBytes = 16;

struct Sums {
  __m128i high = _mm_setzero_si128(), low = _mm_set1_epi32(kHalf);

  void add(__m128i taps, const int32_t* weights) {
    high = _mm_add_epi32(high, _mm_madd_epi16(taps, _mm_set1_epi32(weights[0])));
    low = _mm_add_epi32(low, _mm_madd_epi16(taps, _mm_set1_epi32(weights[1])));
  }

  __m128i value() const {
    return _mm_srai_epi32(_mm_add_epi32(_mm_slli_epi32(high, kLayout.bits), low), kWeightBits);
  }
};

// Two pixels of four 16-bit channels each, paired channel by channel.
inline __m128i pair(__m128i pixels) { return _mm_unpacklo_epi16(pixels, _mm_srli_si128(pixels, 8)); }

inline void add_pixels(Sums& sums, const uint8_t* at, int64_t, const int32_t* weights) {
  __m128i pixels = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
  sums.add(pair(_mm_unpacklo_epi8(pixels, _mm_setzero_si128())), weights);
  sums.add(pair(_mm_unpackhi_epi8(pixels, _mm_setzero_si128())), weights + kLayout.digits);
}

inline void add_rest(Sums& sums, const uint8_t* at, int64_t, const int32_t* weights) {
  __m128i pixels = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(at));
  sums.add(pair(_mm_unpacklo_epi8(pixels, _mm_setzero_si128())), weights);
}

inline void add_rows(Sums sums[4], const uint8_t* const rows[2], int64_t x, const int32_t* weights) {
  __m128i row0 = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[0] + x));
  __m128i row1 = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[1] + x));
  __m128i low = _mm_unpacklo_epi8(row0, row1), high = _mm_unpackhi_epi8(row0, row1);
  const __m128i zero = _mm_setzero_si128();
  sums[0].add(_mm_unpacklo_epi8(low, zero), weights);
  sums[1].add(_mm_unpackhi_epi8(low, zero), weights);
  sums[2].add(_mm_unpacklo_epi8(high, zero), weights);
  sums[3].add(_mm_unpackhi_epi8(high, zero), weights);
}

#else  // arm64 and others: vector extensions

typedef int32_t Words __attribute__((vector_size(16)));
typedef uint8_t Bytes __attribute__((vector_size(4)));

constexpr Layout kLayout = kPairs;
constexpr int kRows = 1;
constexpr int kBytes = 16;

inline Words widen(const uint8_t* bytes) {
  Bytes four;
  memcpy(&four, bytes, 4);
  return __builtin_convertvector(four, Words);
}

struct Sums {
  Words sum = Words{} + kHalf;

  // Here 32 bits are multiplied at once: the digits are put together first.
  void add(const uint8_t* tap0, const uint8_t* tap1, const int32_t* weights) {
    const int32_t weight0 = static_cast<int16_t>(weights[0]) * (1 << kLayout.bits) + static_cast<int16_t>(weights[1]);
    const int32_t weight1 = (weights[0] >> 16) * (1 << kLayout.bits) + (weights[1] >> 16);
    sum += widen(tap0) * weight0 + widen(tap1) * weight1;
  }

  Words value() const { return sum >> kWeightBits; }
};

inline void add_rest(Sums& sums, const uint8_t* at, int64_t, const int32_t* weights) { sums.add(at, at + 4, weights); }

inline void add_pixels(Sums& sums, const uint8_t* at, int64_t stride, const int32_t* weights) {
  add_rest(sums, at, stride, weights);
  add_rest(sums, at + 8, stride, weights + kLayout.digits);
}

inline void add_rows(Sums sums[4], const uint8_t* const rows[2], int64_t x, const int32_t* weights) {
  for (int i = 0; i < 4; ++i) sums[i].add(rows[0] + x + 4 * i, rows[1] + x + 4 * i, weights);
}

#endif

using Value = decltype(Sums().value());

#if defined(__AVX2__)

inline void store_pixels(const Sums& sums, uint8_t* at, int64_t stride) {
  __m256i bytes = sums.value();
  bytes = _mm256_packs_epi32(bytes, bytes);
  bytes = _mm256_packus_epi16(bytes, bytes);
  int32_t row0 = _mm_cvtsi128_si32(_mm256_castsi256_si128(bytes));
  int32_t row1 = _mm_cvtsi128_si32(_mm256_extracti128_si256(bytes, 1));
  memcpy(at, &row0, 4);
  memcpy(at + stride, &row1, 4);
}

// Eight neighbouring pixels to planes that are `plane` bytes apart.
inline void store_planes(const Value values[8], uint8_t* at, int64_t plane, int64_t stride) {
  const __m256i by_channel = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  __m256i four[2];
  for (int i = 0; i < 2; ++i, values += 4) {
    __m256i front = _mm256_packs_epi32(values[0], values[1]);
    __m256i back = _mm256_packs_epi32(values[2], values[3]);
    four[i] = _mm256_shuffle_epi8(_mm256_packus_epi16(front, back), by_channel);
  }
  __m256i red_green = _mm256_unpacklo_epi32(four[0], four[1]), blue = _mm256_unpackhi_epi32(four[0], four[1]);
  for (int row = 0; row < 2; ++row, at += stride) {
    __m128i rg = row ? _mm256_extracti128_si256(red_green, 1) : _mm256_castsi256_si128(red_green);
    __m128i b = row ? _mm256_extracti128_si256(blue, 1) : _mm256_castsi256_si128(blue);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(at), rg);
    _mm_storeh_pd(reinterpret_cast<double*>(at + plane), _mm_castsi128_pd(rg));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(at + 2 * plane), b);
  }
}

inline void store_bytes(const Sums sums[4], uint8_t* at) {
  __m256i front = _mm256_packs_epi32(sums[0].value(), sums[1].value());
  __m256i back = _mm256_packs_epi32(sums[2].value(), sums[3].value());
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), _mm256_packus_epi16(front, back));
}

#elif defined(__SSE2__)

inline void store_pixels(const Sums& sums, uint8_t* at, int64_t) {
  __m128i bytes = sums.value();
  bytes = _mm_packs_epi32(bytes, bytes);
  int32_t pixel = _mm_cvtsi128_si32(_mm_packus_epi16(bytes, bytes));
  memcpy(at, &pixel, 4);
}

inline void store_planes(const Value values[8], uint8_t* at, int64_t plane, int64_t) {
  __m128i four[2];
  for (int i = 0; i < 2; ++i, values += 4) {
    __m128i front = _mm_packs_epi32(values[0], values[1]);
    __m128i back = _mm_packs_epi32(values[2], values[3]);
    four[i] = _mm_packus_epi16(front, back);
  }
  // Three times, what stood a half apart comes to stand side by side: pixels of channels become channels of pixels.
  __m128i low = four[0], high = four[1];
  for (int i = 0; i < 3; ++i) {
    __m128i next = _mm_unpacklo_epi8(low, high);
    high = _mm_unpackhi_epi8(low, high);
    low = next;
  }
  _mm_storel_epi64(reinterpret_cast<__m128i*>(at), low);
  _mm_storeh_pd(reinterpret_cast<double*>(at + plane), _mm_castsi128_pd(low));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(at + 2 * plane), high);
}

inline void store_bytes(const Sums sums[4], uint8_t* at) {
  __m128i front = _mm_packs_epi32(sums[0].value(), sums[1].value());
  __m128i back = _mm_packs_epi32(sums[2].value(), sums[3].value());
  _mm_storeu_si128(reinterpret_cast<__m128i*>(at), _mm_packus_epi16(front, back));
}

#else

inline void store_pixel(Words value, uint8_t* at) {
  value = value < 0 ? Words{} : value;
  value = value > 255 ? Words{255, 255, 255, 255} : value;
  Bytes bytes = __builtin_convertvector(value, Bytes);
  memcpy(at, &bytes, 4);
}

inline void store_pixels(const Sums& sums, uint8_t* at, int64_t) { store_pixel(sums.value(), at); }

inline void store_planes(const Value values[8], uint8_t* at, int64_t plane, int64_t) {
  for (int i = 0; i < 8; ++i) {
    uint8_t pixel[4];
    store_pixel(values[i], pixel);
    for (int channel = 0; channel < 3; ++channel) at[channel * plane + i] = pixel[channel];
  }
}

inline void store_bytes(const Sums sums[4], uint8_t* at) {
  for (int i = 0; i < 4; ++i) store_pixels(sums[i], at + 4 * i, 0);
}

#endif
