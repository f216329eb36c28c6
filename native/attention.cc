// Writing keys and values into pages. Plain code: a position is written once and read by every later one.
#include "attention.h"

#include <cstring>

namespace penstock {
namespace {

// Nearest bf16, ties to even; NaN stays NaN.
uint16_t round_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float convert(float value, float) { return value; }
uint16_t convert(float value, uint16_t) { return round_bf16(value); }

template <class T>
void store(const KvLayer& kv, const int32_t* table, int64_t position, const float* k, const float* v) {
  const int64_t page = table[position / kv.page_tokens];
  const int64_t inside = position % kv.page_tokens;
  const int64_t tile = inside / kTile, lane = inside % kTile;
  for (int64_t h = 0; h < kv.heads; ++h) {
    T* keys = reinterpret_cast<T*>(kv.key_tile(page, h, tile)) + lane;
    T* values = reinterpret_cast<T*>(kv.value_tile(page, h, tile)) + lane * kv.padded;
    for (int64_t d = 0; d < kv.dim; ++d) {
      keys[d * kTile] = convert(k[h * kv.dim + d], T{});
      values[d] = convert(v[h * kv.dim + d], T{});
    }
    for (int64_t d = kv.dim; d < kv.padded; ++d) {
      keys[d * kTile] = T{};
      values[d] = T{};
    }
  }
}

}  // namespace

void store_kv(const KvLayer& kv, const int32_t* table, int64_t position, const float* k, const float* v) {
  if (kv.type == KvType::f32) {
    store<float>(kv, table, position, k, v);
  } else {
    store<uint16_t>(kv, table, position, k, v);
  }
}

}  // namespace penstock
