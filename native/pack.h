// Stored GGUF blocks to group-code tiles. The same bytes as penstock/formats/packed.py, which defines them.
#pragma once
#include <cstdint>

#include "pool.h"

namespace penstock {

enum class Stored : int32_t { q8_0, q4_0, q4_k, q6_k };

struct PackJob {
  Stored stored;
  const uint8_t* data;  // [stored rows, row bytes]
  int64_t n, k;         // rows taken and columns; k a multiple of 32, and of 256 for the K kinds
  const int64_t* rows;  // [n] stored rows, or null for 0 … n - 1
  uint8_t* codes;
  uint8_t* scales;
  uint8_t* subscales;
  uint8_t* mins;
};

// Bytes of a stored row of k columns.
int64_t stored_row_bytes(Stored stored, int64_t k);

void pack(Pool& pool, const PackJob& job);

}  // namespace penstock
