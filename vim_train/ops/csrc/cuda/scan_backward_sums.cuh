// Sums, in an order fixed by the shapes, of what the blocks of the backward scan leave in the workspace.
#pragma once

#include "scan_backward.cuh"

namespace vt {
namespace backward {

// dB and dC from the partial sums of `channel_blocks` blocks, whose rows are 2 * padded_states.
int32_t sum_row_partials(const Params& params, int64_t channel_blocks, int padded_states);

// dA, dD and d delta_bias.
int32_t sum_channel_partials(const Params& params);

}  // namespace backward
}  // namespace vt
