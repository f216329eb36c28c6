// Stored GGUF blocks to group-code tiles. The same bytes as penstock/formats/packed.py, which defines them.
#pragma once
#include <cstdint>

#include "linear.h"
#include "pool.h"

namespace penstock {

enum class Stored : int32_t { q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs, mxfp4 };

// A storage kind: its blocks in a file and the group codes that it becomes.
struct StoredForm {
  Stored stored;
  const char* name;
  int32_t block, bytes;        // weights and bytes of a stored block
  int32_t bits, group, super;  // as in Matrix
  ScaleForm scale_form;
  bool minimum;
};

// The form of the kind of that name, or null.
const StoredForm* stored_form(const char* name);

// Bytes of the arrays of a group-code matrix; 0 where it has none.
struct ArrayBytes {
  int64_t codes, scales, subscales, mins;
};
ArrayBytes array_bytes(const Matrix& w, bool minimum);

struct PackJob {
  const StoredForm* form;
  const uint8_t* data;  // [stored rows, row bytes]
  int64_t n, k;         // rows taken and columns; k a multiple of 32, and of the stored block
  const int64_t* rows;  // [n] stored rows, or null for 0 … n - 1
  uint8_t* codes;
  uint8_t* scales;
  uint8_t* subscales;
  uint8_t* mins;
};

// Tiles are written by the node that computes them later.
void pack(Pool& pool, const PackJob& job);

// Copies an array of tiles, each by the node that computes it later.
void place(Pool& pool, const uint8_t* source, uint8_t* target, int64_t bytes, int64_t tile_bytes);

}  // namespace penstock
