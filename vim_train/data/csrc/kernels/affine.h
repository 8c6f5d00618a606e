// Affine transforms with bilinear or bicubic interpolation, in the double arithmetic that Pillow uses. Included into one
// namespace an instruction set.
//
// A shift or shear along one axis leaves the other coordinate on the grid. Interpolation by a fraction of exactly 0
// returns its middle sample exactly, so that axis is passed over: a quarter of the work, the same bits.

typedef double Colour __attribute__((vector_size(32)));

#if defined(__AVX2__)

inline Colour load_colour(const uint8_t* pixel) {
  return _mm256_cvtepi32_pd(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(static_cast<int32_t>(load(pixel)))));
}

// Cut to [0, 255] and truncated.
inline void store_colour(Colour value, uint8_t* pixel) {
  __m128i whole = _mm256_cvttpd_epi32(value);
  whole = _mm_packus_epi16(_mm_packs_epi32(whole, whole), whole);
  int32_t bytes = _mm_cvtsi128_si32(whole);
  memcpy(pixel, &bytes, 4);
}

#elif defined(__SSE2__)

inline Colour load_colour(const uint8_t* pixel) {
  __m128i bytes = _mm_cvtsi32_si128(static_cast<int32_t>(load(pixel)));
  __m128i whole = _mm_unpacklo_epi16(_mm_unpacklo_epi8(bytes, _mm_setzero_si128()), _mm_setzero_si128());
  __m128d halves[2] = {_mm_cvtepi32_pd(whole), _mm_cvtepi32_pd(_mm_srli_si128(whole, 8))};
  Colour colour;
  memcpy(&colour, halves, 32);
  return colour;
}

inline void store_colour(Colour value, uint8_t* pixel) {
  __m128d halves[2];
  memcpy(halves, &value, 32);
  __m128i whole = _mm_unpacklo_epi64(_mm_cvttpd_epi32(halves[0]), _mm_cvttpd_epi32(halves[1]));
  whole = _mm_packus_epi16(_mm_packs_epi32(whole, whole), whole);
  int32_t bytes = _mm_cvtsi128_si32(whole);
  memcpy(pixel, &bytes, 4);
}

#else

inline Colour load_colour(const uint8_t* pixel) {
  return Colour{static_cast<double>(pixel[0]), static_cast<double>(pixel[1]), static_cast<double>(pixel[2]), 0.0};
}

inline void store_colour(Colour value, uint8_t* pixel) {
  for (int c = 0; c < 3; ++c) pixel[c] = static_cast<uint8_t>(std::min(std::max(static_cast<int>(value[c]), 0), 255));
}

#endif

inline Colour cubic(Colour v1, Colour v2, Colour v3, Colour v4, double d) {
  Colour p2 = v3 - v1;
  Colour p3 = 2.0 * (v1 - v2) + v3 - v4;
  Colour p4 = v2 - v1 - v3 + v4;
  return v2 + d * (p2 + d * (p3 + d * p4));
}

inline Colour linear(Colour v1, Colour v2, double d) { return v1 + (v2 - v1) * d; }

inline int32_t clamp(int32_t value, int32_t size) { return std::min(std::max(value, 0), size - 1); }

// Interpolation along a row, at column x + d; `inside`: no neighbour is beyond the row's ends.
template <int filter, bool inside>
inline Colour along_row(const uint8_t* row, int32_t width, int32_t x, double d) {
  auto pixel = [=](int32_t at) { return load_colour(row + int64_t{inside ? at : clamp(at, width)} * 4); };
  if (d == 0.0) return pixel(x);
  if (filter == VTP_BILINEAR) return linear(pixel(x), pixel(x + 1), d);
  return cubic(pixel(x - 1), pixel(x), pixel(x + 1), pixel(x + 2), d);
}

template <int filter, bool inside>
inline Colour at_point(const Image& image, int32_t x, double dx, int32_t y, double dy) {
  auto row = [&](int32_t at) {
    return along_row<filter, inside>(image.row(inside ? at : clamp(at, image.height)), image.width, x, dx);
  };
  if (dy == 0.0) return row(y);
  if (filter == VTP_BILINEAR) return linear(row(y), row(y + 1), dy);
  return cubic(row(y - 1), row(y), row(y + 1), row(y + 2), dy);
}

template <int filter>
void affine(const double* m, const uint8_t fill[4], const Image& from, const Image& to) {
  const Image in = from, out = to;  // copies, whose fields no written byte can alias
  const double width = in.width, height = in.height;
  const double m0 = m[0], m1 = m[1], m2 = m[2], m3 = m[3], m4 = m[4], m5 = m[5];
  const uint32_t outside = load(fill);
  for (int32_t y = 0; y < out.height; ++y) {
    uint8_t* pixel = out.row(y);
    for (int32_t x = 0; x < out.width; ++x, pixel += 4) {
      double u = m0 * (x + 0.5) + m1 * (y + 0.5) + m2;
      double v = m3 * (x + 0.5) + m4 * (y + 0.5) + m5;
      if (!(u >= 0.0 && u < width && v >= 0.0 && v < height)) {
        memcpy(pixel, &outside, 4);
        continue;
      }
      u -= 0.5;
      v -= 0.5;
      const int32_t column = u < 0.0 ? -1 : static_cast<int32_t>(u), row = v < 0.0 ? -1 : static_cast<int32_t>(v);
      const bool inside = column >= 1 && column < in.width - 2 && row >= 1 && row < in.height - 2;
      const Colour value = inside ? at_point<filter, true>(in, column, u - column, row, v - row)
                                  : at_point<filter, false>(in, column, u - column, row, v - row);
      store_colour(value, pixel);
    }
  }
}
