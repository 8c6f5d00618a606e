// Each thread's scratch memory: asked for anew with every image, it would cost more page faults than work.
#pragma once

#include <stdint.h>
#include <stdlib.h>

namespace vtp {

constexpr int64_t kSlack = 128;  // bytes that kernels may read past the last pixel

class Scratch {
 public:
  ~Scratch() { free(data_); }

  // At least `bytes` + kSlack bytes, aligned to 64, contents arbitrary; null where there is no memory.
  uint8_t* take(int64_t bytes) {
    if (bytes + kSlack > held_) {
      free(data_);
      held_ = (bytes + kSlack + 0xffff) & ~int64_t{0xffff};
      data_ = static_cast<uint8_t*>(aligned_alloc(64, held_));
      if (!data_) held_ = 0;
    }
    return data_;
  }

  // Give back what only an uncommonly large image needed.
  void trim() {
    if (held_ <= (int64_t{64} << 20)) return;
    free(data_);
    data_ = nullptr;
    held_ = 0;
  }

 private:
  uint8_t* data_ = nullptr;
  int64_t held_ = 0;
};

}  // namespace vtp
