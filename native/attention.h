// Keys and values in pages, and attention over them. Knows nothing about layers' weights or sampling.
// Invariant: a query's bits depend on its own sequence's stored keys and values alone: absolute splits of kSplit positions, tiles of kTile
// positions inside, merged in ascending order, whatever the page size, the pages' places, the chunk or the batch.
#pragma once
#include <cstdint>

namespace penstock {

enum class KvType : int32_t { f32 = 0, bf16 = 1, int8 = 2 };

constexpr int64_t kTile = 16;    // positions of a tile: keys lie [padded][16], values [16][padded]
constexpr int64_t kSplit = 256;  // positions that share one softmax maximum

constexpr int64_t kScoreStride = kSplit + 16;  // floats between rows of scores, so that rows do not compete for sets of the cache

// One layer's pages. A page holds, for each kv head, page_tokens / 16 tiles of keys and then as many of values; a head's dimensions are
// padded with zeros to a multiple of 16. A tile of int8 codes is followed by its sixteen positions' f32 scales, 64 bytes that keep the
// next tile on a cache line. Tier code reads the fields only: an inline member would be a weak symbol there.
struct KvLayer {
  uint8_t* base;
  KvType type;
  int64_t heads, dim, padded, page_tokens;

  int64_t element_bytes() const { return type == KvType::f32 ? 4 : type == KvType::bf16 ? 2 : 1; }
  int64_t scale_bytes() const { return type == KvType::int8 ? 4 : 0; }  // of one position of one head, of keys or of values
  int64_t tile_bytes() const { return kTile * (padded * element_bytes() + scale_bytes()); }
  int64_t head_bytes() const { return 2 * (page_tokens / kTile) * tile_bytes(); }
  int64_t page_bytes() const { return heads * head_bytes(); }
  uint8_t* key_tile(int64_t page, int64_t head, int64_t tile) const {
    return base + page * page_bytes() + head * head_bytes() + tile * tile_bytes();
  }
  uint8_t* value_tile(int64_t page, int64_t head, int64_t tile) const { return key_tile(page, head, tile + page_tokens / kTile); }
};

// One piece of work: `count` successive queries of one sequence against one kv head, `group` query heads each.
struct AttendArgs {
  KvLayer kv;
  int64_t kv_head;
  const int32_t* table;  // page of every page_tokens positions
  const float* q;        // [count, group, dim] f32, first query's first head; q_stride floats between queries
  int64_t q_stride, group, first_position, count;
  int64_t window;      // positions that a query sees, itself included; 0 is all
  float scale;         // multiplies q
  float softcap;       // 0 is off
  const float* sinks;  // [group] f32 or null
  float* out;          // as q, out_stride floats between queries
  int64_t out_stride;
  float* scratch;  // attend_scratch(count * group, padded) floats
};

// Floats of scratch that a piece of work with that many (query, head) rows needs.
inline int64_t attend_scratch(int64_t rows, int64_t padded) {
  return rows * (2 * padded + kScoreStride) + kSplit + 6 * (rows + 16);
}

// Stores one position's keys and values, rounded to the pages' type. k, v: [heads, dim] f32. As int8, each head has the scale max|x| / 127
// and codes rounded to nearest even; one with NaN or infinity in it reads as NaN, one all below 2^-119 as zeros.
void store_kv(const KvLayer& kv, const int32_t* table, int64_t position, const float* k, const float* v);

}  // namespace penstock
