// What row operations return. Plain data; see ops.inc for the operations.
#pragma once
#include <cstdint>

namespace penstock {

// Of one position's logits.
struct LogitFacts {
  float maximum;
  int64_t argmax;  // first index that has it
  int32_t finite;  // no NaN, no infinity
};

}  // namespace penstock
