// Aligned working memory.
#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "simd.h"

namespace vt {
namespace VT_ISA {

constexpr int64_t kAlignment = 64;  // a cache line, and at least a vector

VT_INLINE int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }
VT_INLINE int64_t divide_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit; }
VT_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// One allocation handed out in aligned pieces. A layout function run with a null base only adds up what it needs; run
// again after allocate() it places the pieces.
class Arena {
 public:
  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() { free(base_); }

  template <class T>
  T* take(int64_t count) {
    T* piece = base_ ? (T*)(base_ + used_) : nullptr;
    used_ += round_up(count * (int64_t)sizeof(T), kAlignment);
    return piece;
  }

  // False if there is no memory.
  bool allocate() {
    base_ = (char*)aligned_alloc(kAlignment, (size_t)(used_ ? used_ : kAlignment));
    used_ = 0;
    return base_ != nullptr;
  }

 private:
  char* base_ = nullptr;
  int64_t used_ = 0;
};

}  // namespace VT_ISA
}  // namespace vt
