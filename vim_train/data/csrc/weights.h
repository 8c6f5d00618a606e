// The weights of Pillow's antialiased resize, for one axis.
//
// Output i is sum_t weight(i, t) * input(first(i) + t), with weights in units of 2^-22, rounded as Pillow rounds them.
// Pixels have 8 bits and weights 24, while the fast multiply-add instructions take 16 or 8 bits of each: a weight is
// kept as digits, and each digit has a sum of its own. Put together at the end, the sums are exact in 32 bits.
#pragma once

#include "memory.h"
#include "pixels.h"

namespace vtp {

constexpr int kWeightBits = 22;

// How a kernel wants weights: in groups of taps, each of which is one 32-bit word a digit, the lowest digit last.
struct Layout {
  int32_t taps;    // in a group: 2 of 16 bits or 4 of 8 bits
  int32_t digits;  // of a weight
  int32_t bits;    // of all but the highest digit
};
constexpr Layout kPairs = {2, 2, 11};
constexpr Layout kQuads = {4, 3, 8};

struct Axis {
  int32_t outputs = 0;
  int32_t inputs = 0;      // that the outputs need, counted from `start`
  int32_t start = 0;       // of the inputs, in the source
  int32_t groups = 0;      // of taps for each output; taps that are too many weigh nothing
  bool resampled = false;  // false: output i is input i
  const int32_t* first = nullptr;    // (outputs,), counted from `start`
  const int32_t* weights = nullptr;  // (outputs, groups, digits)
};

// Output coordinates [window, window + outputs) of `from` pixels resized to `to`. The tables live in `scratch`.
bool make_axis(int32_t from, int32_t to, int32_t window, int32_t outputs, int32_t filter, const Layout& layout,
               Scratch& scratch, Axis& axis);

}  // namespace vtp
