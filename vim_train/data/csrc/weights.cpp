// Compiled without contraction: a fused multiply-add would round where Pillow does not.
#include "weights.h"

#include <math.h>
#include <string.h>

#include <algorithm>

namespace vtp {
namespace {

double triangle(double x) { return fmax(1.0 - fabs(x), 0.0); }

// Keys' cubic convolution kernel with a = -1/2, factored as Pillow factors it.
double cubic(double x) {
  x = fabs(x);
  if (x < 1.0) return (1.5 * x - 2.5) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5;
  return 0.0;
}

int32_t fixed_point(double weight) {
  double scaled = weight * (1 << kWeightBits);
  return static_cast<int32_t>(scaled < 0.0 ? scaled - 0.5 : scaled + 0.5);
}

// Tap `tap` of a group gets `weight`: signed digits, each in its place of its word.
void put(int32_t weight, int32_t tap, const Layout& layout, uint32_t* words) {
  const int32_t unit = 1 << layout.bits, width = 32 / layout.taps;
  const uint32_t mask = width == 8 ? 0xff : 0xffff;
  for (int32_t digit = layout.digits - 1; digit >= 0; --digit) {
    const int32_t value = digit > 0 ? ((weight + unit / 2) & (unit - 1)) - unit / 2 : weight;
    weight = (weight - value) >> layout.bits;
    words[digit] |= (static_cast<uint32_t>(value) & mask) << (tap * width);
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
  auto weigh = filter == VTP_BICUBIC ? cubic : triangle;
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
  uint8_t* memory = scratch.take(table + weights + int64_t{most} * 8);
  if (!memory) return false;
  auto* first = reinterpret_cast<int32_t*>(memory);
  auto* packed = reinterpret_cast<uint32_t*>(memory + table);
  auto* exact = reinterpret_cast<double*>(memory + table + weights);
  memset(packed, 0, weights);
  for (int32_t i = 0; i < outputs; ++i) {
    const int32_t start = low(i), taps = high(i) - start;
    // Groups that are longer than this output's taps begin earlier rather than reach past the last input.
    const int32_t grouped = std::max(std::min(start, end - axis.groups * layout.taps), begin);
    double sum = 0.0;
    for (int32_t t = 0; t < taps; ++t) sum += exact[t] = weigh((t + start - center(i) + 0.5) * inverse);
    int32_t place = (start - grouped) % layout.taps;
    uint32_t* group = packed + i * words + (start - grouped) / layout.taps * layout.digits;
    for (int32_t t = 0; t < taps; ++t) {
      put(fixed_point(sum != 0.0 ? exact[t] / sum : exact[t]), place, layout, group);
      if (++place == layout.taps) {
        place = 0;
        group += layout.digits;
      }
    }
    first[i] = grouped - begin;
  }
  axis.first = first;
  axis.weights = reinterpret_cast<const int32_t*>(packed);
  return true;
}

}  // namespace vtp
