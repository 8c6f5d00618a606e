// Compiled without contraction: a fused multiply-add would round where Pillow does not.
#include "weights.h"

#include <math.h>
#include <string.h>

#include <algorithm>

namespace vtp {
namespace {

// Pillow's filters. Both branches are computed and one is chosen: loops over taps become vector code.
double triangle(double x) {
  x = fabs(x);
  return x < 1.0 ? 1.0 - x : 0.0;
}

// Keys' cubic convolution kernel with a = -1/2, factored as Pillow factors it.
double cubic(double x) {
  x = fabs(x);
  const double near = (1.5 * x - 2.5) * x * x + 1.0;
  const double far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5;
  return x < 1.0 ? near : x < 2.0 ? far : 0.0;
}

int32_t fixed_point(double weight) {
  double scaled = weight * (1 << kWeightBits);
  return static_cast<int32_t>(scaled < 0.0 ? scaled - 0.5 : scaled + 0.5);
}

// The weights of `taps` inputs from `start` on, for an output whose centre is `center`.
template <double filter(double)>
void weigh(double center, double inverse, int32_t start, int32_t taps, double* exact, int32_t* rounded) {
  for (int32_t t = 0; t < taps; ++t) exact[t] = filter((t + start - center + 0.5) * inverse);
  double sum = 0.0;
  for (int32_t t = 0; t < taps; ++t) sum += exact[t];
  if (sum == 0.0) sum = 1.0;
  for (int32_t t = 0; t < taps; ++t) rounded[t] = fixed_point(exact[t] / sum);
}

// One output's weights as signed digits, each in its place of its group. A word holds a Digit for each tap of a group.
template <typename Digit>
void split(const int32_t* rounded, int32_t groups, const Layout& layout, Digit* to) {
  const int32_t unit = 1 << layout.bits;
  for (int32_t g = 0; g < groups; ++g, rounded += layout.taps, to += layout.digits * layout.taps) {
    for (int32_t t = 0; t < layout.taps; ++t) {
      int32_t weight = rounded[t];
      for (int32_t digit = layout.digits - 1; digit > 0; --digit) {
        const int32_t value = ((weight + unit / 2) & (unit - 1)) - unit / 2;
        weight = (weight - value) >> layout.bits;
        to[digit * layout.taps + t] = static_cast<Digit>(value);
      }
      to[t] = static_cast<Digit>(weight);
    }
  }
}

}  // namespace

bool make_axis(int32_t from, int32_t to, int32_t window, int32_t outputs, int32_t filter, const Layout& layout,
               Scratch& scratch, Axis& axis) {
  axis = {};
  axis.outputs = outputs;
  if (from == to) {
    axis.start = window;
    axis.inputs = outputs;
    return true;
  }
  axis.resampled = true;
  const double scale = static_cast<double>(from) / to;
  const double stretch = std::max(scale, 1.0);
  const double inverse = 1.0 / stretch;
  const double support = (filter == VTP_BICUBIC ? 2.0 : 1.0) * stretch;
  auto center = [=](int32_t i) { return (i + window + 0.5) * scale; };
  auto low = [=](int32_t i) { return std::max(static_cast<int32_t>(center(i) - support + 0.5), 0); };
  auto high = [=](int32_t i) { return std::min(static_cast<int32_t>(center(i) + support + 0.5), from); };

  int32_t most = 0, begin = from, end = 0;
  for (int32_t i = 0; i < outputs; ++i) {
    most = std::max(most, high(i) - low(i));
    begin = std::min(begin, low(i));
    end = std::max(end, high(i));
  }
  axis.start = begin;
  axis.inputs = end - begin;
  axis.groups = (most + layout.taps - 1) / layout.taps;

  const int64_t words = int64_t{axis.groups} * layout.digits;  // an output
  const int64_t table = (int64_t{outputs} * 4 + 63) & ~int64_t{63};
  const int64_t weights = (outputs * words * 4 + 63) & ~int64_t{63};
  const int32_t padded = axis.groups * layout.taps;
  uint8_t* memory = scratch.take(table + weights + int64_t{padded} * (8 + 4));
  if (!memory) return false;
  auto* first = reinterpret_cast<int32_t*>(memory);
  uint8_t* packed = memory + table;
  auto* exact = reinterpret_cast<double*>(packed + weights);
  auto* rounded = reinterpret_cast<int32_t*>(exact + padded);
  for (int32_t i = 0; i < outputs; ++i) {
    const int32_t start = low(i), taps = high(i) - start;
    // Groups that are longer than this output's taps begin earlier rather than reach past the last input.
    const int32_t grouped = std::max(std::min(start, end - padded), begin);
    memset(rounded, 0, int64_t{padded} * 4);
    (filter == VTP_BICUBIC ? weigh<cubic> : weigh<triangle>)(center(i), inverse, start, taps, exact,
                                                              rounded + (start - grouped));
    uint8_t* to = packed + i * words * 4;
    if (layout.taps == kPairs.taps) split(rounded, axis.groups, kPairs, reinterpret_cast<int16_t*>(to));
    else split(rounded, axis.groups, kQuads, reinterpret_cast<int8_t*>(to));
    first[i] = grouped - begin;
  }
  axis.first = first;
  axis.weights = reinterpret_cast<const int32_t*>(packed);
  return true;
}

}  // namespace vtp
