// Operations on colours, each equal to what PIL.ImageOps and PIL.ImageEnhance compute. Included into one namespace an
// instruction set.

// Bytes may alias anything, an Image's own fields too: loops take their bounds from local variables.

// Pillow's luma, ITU-R 601-2 in units of 2^-16.
inline uint32_t luma(uint32_t pixel) {
  return ((pixel & 0xff) * 19595 + (pixel >> 8 & 0xff) * 38470 + (pixel >> 16 & 0xff) * 7471 + 0x8000) >> 16;
}

// Pillow's blend: in single precision, truncated.
inline uint8_t blend(int32_t from, int32_t to, float factor) {
  const float value = static_cast<float>(from) + factor * static_cast<float>(to - from);
  return static_cast<uint8_t>(std::min(std::max(static_cast<int32_t>(value), 0), 255));
}

void to_grey(const Image& image) {
  const int32_t width = image.width;
  for (int32_t y = 0; y < image.height; ++y) {
    uint8_t* row = image.row(y);
    for (int32_t x = 0; x < width; ++x) {
      uint32_t grey = luma(load(row + 4 * x)) * 0x010101;
      memcpy(row + 4 * x, &grey, 4);
    }
  }
}

void to_planes(const Image& image, int32_t planes, uint8_t* out) {
  const int32_t width = image.width;
  const int64_t size = int64_t{width} * image.height;
  for (int32_t y = 0; y < image.height; ++y) {
    const uint8_t* row = image.row(y);
    uint8_t* to = out + int64_t{y} * width;
    if (planes == 4) {
      memcpy(out + int64_t{y} * width * 4, row, int64_t{width} * 4);
    } else if (planes == 1) {
      for (int32_t x = 0; x < width; ++x) to[x] = row[4 * x];
    } else {
      uint8_t *__restrict red = to, *__restrict green = to + size, *__restrict blue = to + 2 * size;
      for (int32_t x = 0; x < width; ++x) {
        uint32_t pixel = load(row + 4 * x);
        red[x] = static_cast<uint8_t>(pixel);
        green[x] = static_cast<uint8_t>(pixel >> 8);
        blue[x] = static_cast<uint8_t>(pixel >> 16);
      }
    }
  }
}

using Table = uint8_t[256];

void look_up(const Image& image, const Table tables[3]) {
  for (int32_t y = 0; y < image.height; ++y) {
    uint8_t* row = image.row(y);
    for (int32_t x = 0; x < image.width; ++x, row += 4) {
      row[0] = tables[0][row[0]];
      row[1] = tables[1][row[1]];
      row[2] = tables[2][row[2]];
    }
  }
}

template <class Function>
inline void each_byte(const Image& image, Function function) {
  const int32_t bytes = image.width * 4;
  for (int32_t y = 0; y < image.height; ++y) {
    uint8_t* row = image.row(y);
    for (int32_t i = 0; i < bytes; ++i) row[i] = function(row[i]);
  }
}

using Histogram = uint32_t[256];

void count(const Image& image, Histogram bins[3]) {
  Histogram odd[3] = {};  // neighbours are often alike: two sets of bins do not wait for each other
  memset(bins, 0, sizeof odd);
  for (int32_t y = 0; y < image.height; ++y) {
    const uint8_t* row = image.row(y);
    int32_t x = 0;
    for (; x + 1 < image.width; x += 2, row += 8)
      for (int c = 0; c < 3; ++c) {
        ++bins[c][row[c]];
        ++odd[c][row[4 + c]];
      }
    for (; x < image.width; ++x)
      for (int c = 0; c < 3; ++c) ++bins[c][row[c]];
  }
  for (int c = 0; c < 3; ++c)
    for (int i = 0; i < 256; ++i) bins[c][i] += odd[c][i];
}

void autocontrast(const Image& image) {
  Histogram bins[3];
  Table tables[3];
  count(image, bins);
  for (int c = 0; c < 3; ++c) {
    int low = 0, high = 255;
    while (low < 255 && !bins[c][low]) ++low;
    while (high > 0 && !bins[c][high]) --high;
    const double scale = high > low ? 255.0 / (high - low) : 1.0;
    const double offset = high > low ? -low * scale : 0.0;
    for (int i = 0; i < 256; ++i) {
      const int value = static_cast<int>(i * scale + offset);
      tables[c][i] = static_cast<uint8_t>(std::min(std::max(value, 0), 255));
    }
  }
  look_up(image, tables);
}

void equalize(const Image& image) {
  Histogram bins[3];
  Table tables[3];
  count(image, bins);
  const int64_t pixels = int64_t{image.width} * image.height;
  for (int c = 0; c < 3; ++c) {
    int last = 255;
    while (last > 0 && !bins[c][last]) --last;
    // All in one bin makes no step either.
    const int64_t step = (pixels - bins[c][last]) / 255;
    int64_t sum = step / 2;
    for (int i = 0; i < 256; ++i) {
      tables[c][i] = static_cast<uint8_t>(step ? std::min<int64_t>(sum / step, 255) : i);
      sum += bins[c][i];
    }
  }
  look_up(image, tables);
}

void contrast(const Image& image, float factor) {
  const int32_t width = image.width;
  uint64_t sum = 0;
  for (int32_t y = 0; y < image.height; ++y) {
    const uint8_t* row = image.row(y);
    uint32_t of_row = 0;
    for (int32_t x = 0; x < width; ++x) of_row += luma(load(row + 4 * x));
    sum += of_row;
  }
  const double pixels = static_cast<double>(image.width) * image.height;
  const int32_t mean = static_cast<int32_t>(static_cast<double>(sum) / pixels + 0.5);
  each_byte(image, [=](uint8_t value) { return blend(mean, value, factor); });
}

void color(const Image& image, float factor) {
  const int32_t width = image.width;
  for (int32_t y = 0; y < image.height; ++y) {
    uint8_t* row = image.row(y);
    for (int32_t x = 0; x < width; ++x) {
      const uint32_t pixel = load(row + 4 * x);
      const int32_t grey = static_cast<int32_t>(luma(pixel));
      const uint32_t red = blend(grey, static_cast<int32_t>(pixel & 0xff), factor);
      const uint32_t green = blend(grey, static_cast<int32_t>(pixel >> 8 & 0xff), factor);
      const uint32_t blue = blend(grey, static_cast<int32_t>(pixel >> 16 & 0xff), factor);
      const uint32_t result = red | green << 8 | blue << 16;
      memcpy(row + 4 * x, &result, 4);
    }
  }
}

// Away from, or towards, the image smoothed by (1 1 1, 1 5 1, 1 1 1) / 13; its border is not smoothed. The sums are in
// single precision and in Pillow's order: the row below, the row itself, the row above.
void sharpness(const Image& in, float factor, const Image& out) {
  constexpr float edge = 1.0f / 13.0f, middle = 5.0f / 13.0f;
  const int32_t bytes = in.width * 4;
  for (int32_t y = 0; y < in.height; ++y) {
    const uint8_t* row = in.row(y);
    uint8_t* __restrict to = out.row(y);
    if (y == 0 || y == in.height - 1 || in.width < 3) {
      for (int32_t i = 0; i < bytes; ++i) to[i] = blend(row[i], row[i], factor);
      continue;
    }
    const uint8_t *above = in.row(y - 1), *below = in.row(y + 1);
    for (int32_t i = 4; i < bytes - 4; ++i) {
      float sum = 0.5f;
      sum += static_cast<float>(below[i - 4]) * edge + static_cast<float>(below[i]) * edge +
             static_cast<float>(below[i + 4]) * edge;
      sum += static_cast<float>(row[i - 4]) * edge + static_cast<float>(row[i]) * middle +
             static_cast<float>(row[i + 4]) * edge;
      sum += static_cast<float>(above[i - 4]) * edge + static_cast<float>(above[i]) * edge +
             static_cast<float>(above[i + 4]) * edge;
      to[i] = blend(std::min(static_cast<int32_t>(sum), 255), row[i], factor);
    }
    memcpy(to, row, 4);
    memcpy(to + bytes - 4, row + bytes - 4, 4);
  }
}

const Image* operate(const vtp_op& op, const Image& image, const Image& other) {
  const double value = op.value[0];
  const float factor = static_cast<float>(value);
  switch (op.code) {
    case VTP_INVERT: each_byte(image, [](uint8_t v) { return static_cast<uint8_t>(255 - v); }); break;
    case VTP_POSTERIZE: {
      const auto mask = static_cast<uint8_t>(0xff << (8 - static_cast<int>(value)));
      each_byte(image, [=](uint8_t v) { return static_cast<uint8_t>(v & mask); });
      break;
    }
    case VTP_SOLARIZE: {
      const int threshold = static_cast<int>(value);
      each_byte(image, [=](uint8_t v) { return static_cast<uint8_t>(v < threshold ? v : 255 - v); });
      break;
    }
    case VTP_SOLARIZE_ADD: {
      const int added = static_cast<int>(value);
      each_byte(image, [=](uint8_t v) { return static_cast<uint8_t>(v < 128 ? std::min(v + added, 255) : v); });
      break;
    }
    case VTP_AUTOCONTRAST: autocontrast(image); break;
    case VTP_EQUALIZE: equalize(image); break;
    case VTP_BRIGHTNESS: each_byte(image, [=](uint8_t v) { return blend(0, v, factor); }); break;
    case VTP_CONTRAST: contrast(image, factor); break;
    case VTP_COLOR: color(image, factor); break;
    case VTP_SHARPNESS: sharpness(image, factor, other); return &other;
    case VTP_AFFINE:
      if (op.filter == VTP_BICUBIC) affine<VTP_BICUBIC>(op.value, op.fill, image, other);
      else affine<VTP_BILINEAR>(op.value, op.fill, image, other);
      return &other;
  }
  return &image;
}
