// Both passes of the resize. Included into one namespace an instruction set, after simd.h.

// Vectors of rows that are resized together, to load each weight once for all of them: as many as registers can hold.
constexpr int kTogether = 3;

template <int vectors>
inline void horizontal_rows(const uint8_t* in, int64_t in_stride, const Axis& axis, bool flip, uint8_t* out,
                            int64_t out_stride) {
  constexpr int at_once = 4 / kLayout.taps;  // groups
  const int32_t groups = axis.groups, outputs = axis.outputs;
  const int32_t *first = axis.first, *weights = axis.weights;
  for (int32_t i = 0; i < outputs; ++i) {
    Sums sums[vectors];
    const uint8_t* at = in + int64_t{first[i]} * 4;
    int32_t g = 0;
    for (; g + at_once <= groups; g += at_once, at += 16, weights += at_once * kLayout.digits)
      for (int v = 0; v < vectors; ++v) add_pixels(sums[v], at + v * kRows * in_stride, in_stride, weights);
    if (at_once > 1 && g < groups) {
      for (int v = 0; v < vectors; ++v) add_rest(sums[v], at + v * kRows * in_stride, in_stride, weights);
      weights += kLayout.digits;
    }
    uint8_t* to = out + int64_t{flip ? outputs - 1 - i : i} * 4;
    for (int v = 0; v < vectors; ++v) store_pixels(sums[v], to + v * kRows * out_stride, out_stride);
  }
}

void horizontal(const Image& in, const Axis& axis, bool flip, const Image& out) {
  constexpr int32_t block = kRows * kTogether;
  int32_t y = 0;
  for (; y + block <= in.height; y += block)
    horizontal_rows<kTogether>(in.row(y), in.stride, axis, flip, out.row(y), out.stride);
  for (; y + kRows <= in.height; y += kRows)
    horizontal_rows<1>(in.row(y), in.stride, axis, flip, out.row(y), out.stride);
  // What is left is less than a vector of rows: the same row stands in for the others.
  for (; y < in.height; ++y) horizontal_rows<1>(in.row(y), 0, axis, flip, out.row(y), 0);
}

void vertical(const Image& in, const Axis& axis, bool flip, const Image& out) {
  const int64_t bytes = int64_t{out.width} * 4;
  const int32_t groups = axis.groups;
  const int64_t stride = in.stride;
  const uint8_t* last = in.row(in.height - 1);
  const int32_t* weights = axis.weights;
  for (int32_t i = 0; i < axis.outputs; ++i, weights += int64_t{groups} * kLayout.digits) {
    uint8_t* to = out.row(flip ? axis.outputs - 1 - i : i);
    const uint8_t* from = in.row(axis.first[i]);
    for (int64_t x = 0; x < bytes; x += kBytes) {
      Sums sums[4];
      const uint8_t* row = from;
      for (int32_t g = 0; g < groups; ++g) {
        const uint8_t* rows[kLayout.taps];
        // Rows past the last weigh nothing, but have to exist.
        for (int t = 0; t < kLayout.taps; ++t, row += stride) rows[t] = std::min(row, last);
        add_rows(sums, rows, x, weights + g * kLayout.digits);
      }
      store_bytes(sums, to + x);
    }
  }
}
