// One row of a packed matrix as floats: what an embedding lookup needs. Knows nothing about models.
// Invariant: the values are those of formats/packed.py's unpack, whatever the layout.
#pragma once
#include <cstdint>

#include "linear.h"

namespace penstock {

// out: [k] f32, row `row` of w; 0 ≤ row < n.
void unpack_row(const Matrix& w, int64_t row, float* out);

}  // namespace penstock
