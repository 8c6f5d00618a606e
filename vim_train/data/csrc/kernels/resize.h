// Both passes of the resize. Included into one namespace an instruction set, after simd.h.

// Vectors of rows that are resized together, to load each weight once for all of them: as many as registers can hold.
constexpr int kTogether = 3;

// One output of `vectors` vectors of rows.
template <int vectors>
inline void add_taps(Sums sums[vectors], const uint8_t* at, int64_t stride, const int32_t* weights, int32_t groups) {
  constexpr int at_once = 4 / kLayout.taps;  // groups
  int32_t g = 0;
#pragma GCC unroll 4
  for (; g + at_once <= groups; g += at_once, at += 16, weights += at_once * kLayout.digits)
    for (int v = 0; v < vectors; ++v) add_pixels(sums[v], at + v * kRows * stride, stride, weights);
  if (at_once > 1 && g < groups)
    for (int v = 0; v < vectors; ++v) add_rest(sums[v], at + v * kRows * stride, stride, weights);
}

template <int vectors>
inline void horizontal_rows(const uint8_t* in, int64_t in_stride, const Axis& axis, bool flip, uint8_t* out,
                            int64_t out_stride) {
  const int32_t groups = axis.groups, outputs = axis.outputs;
  const int32_t *first = axis.first, *weights = axis.weights;
  for (int32_t i = 0; i < outputs; ++i, weights += groups * kLayout.digits) {
    Sums sums[vectors];
    add_taps<vectors>(sums, in + int64_t{first[i]} * 4, in_stride, weights, groups);
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

template <int vectors, int known_groups>
inline void horizontal_planes_rows(const uint8_t* in, int64_t in_stride, const Axis& axis, bool flip, uint8_t* out,
                                   int64_t out_stride) {
  const int32_t groups = known_groups ? known_groups : axis.groups, outputs = axis.outputs;
  const int32_t *first = axis.first, *weights = axis.weights;
  for (int32_t x = 0; x < outputs; x += 8) {
    // The next rows: just decoded, but too many to have stayed in the cache. To prefetch past the image is harmless.
    const uint8_t* next = in + int64_t{first[flip ? outputs - 8 - x : x]} * 4 + vectors * kRows * in_stride;
    for (int row = 0; row < vectors * kRows; ++row) __builtin_prefetch(next + row * in_stride);
    Value values[vectors][8];
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
      const int32_t i = flip ? outputs - 1 - x - k : x + k;
      Sums sums[vectors];
      add_taps<vectors>(sums, in + int64_t{first[i]} * 4, in_stride, weights + int64_t{i} * groups * kLayout.digits,
                        groups);
      for (int v = 0; v < vectors; ++v) values[v][k] = sums[v].value();
    }
    for (int v = 0; v < vectors; ++v) store_planes(values[v], out + v * kRows * out_stride + x, outputs, out_stride);
  }
}

template <int known_groups>
void horizontal_planes_of(const Image& in, const Axis& axis, bool flip, const Image& out) {
  constexpr int32_t block = kRows * kTogether;
  int32_t y = 0;
  for (; y + block <= in.height; y += block)
    horizontal_planes_rows<kTogether, known_groups>(in.row(y), in.stride, axis, flip, out.row(y), out.stride);
  for (; y + kRows <= in.height; y += kRows)
    horizontal_planes_rows<1, known_groups>(in.row(y), in.stride, axis, flip, out.row(y), out.stride);
  for (; y < in.height; ++y) horizontal_planes_rows<1, known_groups>(in.row(y), 0, axis, flip, out.row(y), 0);
}

void horizontal_planes(const Image& in, const Axis& axis, bool flip, const Image& out) {
  switch (axis.groups) {  // loops of known length need fewer registers
    case 2: return horizontal_planes_of<2>(in, axis, flip, out);
    case 3: return horizontal_planes_of<3>(in, axis, flip, out);
    case 4: return horizontal_planes_of<4>(in, axis, flip, out);
    default: return horizontal_planes_of<0>(in, axis, flip, out);
  }
}

template <int known_groups>
void vertical_of(const Image& in, const Axis& axis, bool flip, const Image& out) {
  const int64_t bytes = int64_t{out.width} * 4;
  const int32_t groups = known_groups ? known_groups : axis.groups;
  const int64_t stride = in.stride;
  const uint8_t* last = in.row(in.height - 1);
  const int32_t* weights = axis.weights;
  for (int32_t i = 0; i < axis.outputs; ++i, weights += int64_t{groups} * kLayout.digits) {
    uint8_t* to = out.row(flip ? axis.outputs - 1 - i : i);
    const uint8_t* from = in.row(axis.first[i]);
    for (int64_t x = 0; x < bytes; x += kBytes) {
      Sums sums[4];
      const uint8_t* row = from;
#pragma GCC unroll 4
      for (int32_t g = 0; g < groups; ++g) {
        const uint8_t* rows[kLayout.taps];
        // Of a small image groups reach past the last row: what is there weighs nothing, but has to exist.
        for (int t = 0; t < kLayout.taps; ++t, row += stride) rows[t] = known_groups ? row : std::min(row, last);
        add_rows(sums, rows, x, weights + g * kLayout.digits);
      }
      store_bytes(sums, to + x);
    }
  }
}

void vertical(const Image& in, const Axis& axis, bool flip, const Image& out) {
  switch (in.height < axis.groups * kLayout.taps ? 0 : axis.groups) {
    case 2: return vertical_of<2>(in, axis, flip, out);
    case 3: return vertical_of<3>(in, axis, flip, out);
    case 4: return vertical_of<4>(in, axis, flip, out);
    default: return vertical_of<0>(in, axis, flip, out);
  }
}
