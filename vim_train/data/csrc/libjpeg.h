// The libjpeg that is in use.
#pragma once

#include "libjpeg_abi.h"

namespace vtp {

// Null until one was opened.
const jpeg::Functions* libjpeg();

}  // namespace vtp
