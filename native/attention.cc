// Writing keys and values into pages. Plain code: a position is written once and read by every later one.
#include "attention.h"

#include <cstring>
#include <limits>

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

// How one head's values become int8.
struct HeadScale {
  float scale;    // of a code
  float inverse;  // what a value is multiplied with
};

HeadScale head_scale(const float* x, int64_t dim) {
  constexpr int32_t kInfinity = 0x7f800000;
  constexpr float kLeast = 0x1p-119f;  // from there on the scale is normal and its inverse finite
  int32_t most = 0;                    // bits of the greatest |x|; those of NaN are greater than infinity's
  for (int64_t d = 0; d < dim; ++d) {
    int32_t bits;
    std::memcpy(&bits, x + d, 4);
    bits &= INT32_MAX;
    most = most > bits ? most : bits;
  }
  if (most >= kInfinity) return {std::numeric_limits<float>::quiet_NaN(), 0.0f};
  float greatest;
  std::memcpy(&greatest, &most, 4);
  if (greatest < kLeast) return {0.0f, 0.0f};
  return {greatest / 127.0f, 127.0f / greatest};
}

// Nearest integer, ties to even: 1.5 · 2^23 leaves it in the sum's low bits.
int8_t code_of(float value, float inverse) {
  const float shifted = value * inverse + 12582912.0f;
  int32_t bits;
  std::memcpy(&bits, &shifted, 4);
  return static_cast<int8_t>(bits);
}

// One head's codes, `stride` bytes between its dimensions, and its scale.
void store_codes(const KvLayer& kv, const float* x, uint8_t* tile, int64_t first, int64_t stride, int64_t lane) {
  const HeadScale head = head_scale(x, kv.dim);
  auto* codes = reinterpret_cast<int8_t*>(tile) + first;
  for (int64_t d = 0; d < kv.dim; ++d) codes[d * stride] = code_of(x[d], head.inverse);
  for (int64_t d = kv.dim; d < kv.padded; ++d) codes[d * stride] = 0;
  std::memcpy(tile + kTile * kv.padded + lane * kv.scale_bytes(), &head.scale, sizeof head.scale);
}

void store_int8(const KvLayer& kv, const int32_t* table, int64_t position, const float* k, const float* v) {
  const int64_t page = table[position / kv.page_tokens];
  const int64_t inside = position % kv.page_tokens;
  const int64_t tile = inside / kTile, lane = inside % kTile;
  for (int64_t h = 0; h < kv.heads; ++h) {
    store_codes(kv, k + h * kv.dim, kv.key_tile(page, h, tile), lane, kTile, lane);
    store_codes(kv, v + h * kv.dim, kv.value_tile(page, h, tile), lane * kv.padded, 1, lane);
  }
}

}  // namespace

void store_kv(const KvLayer& kv, const int32_t* table, int64_t position, const float* k, const float* v) {
  if (kv.type == KvType::f32) {
    store<float>(kv, table, position, k, v);
  } else if (kv.type == KvType::bf16) {
    store<uint16_t>(kv, table, position, k, v);
  } else {
    store_int8(kv, table, position, k, v);
  }
}

}  // namespace penstock
