// Plain code: a lookup reads one row a token, the matrix products read the rest.
#include "unpack.h"

#include <cstring>
#include <initializer_list>

namespace penstock {
namespace {

constexpr int64_t kBlock = 32;  // inputs of a block, and channels of a tile

float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

float from_f16(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 31u, fraction = h & 1023u;
  if (exponent == 31) return from_bits(sign | 0x7f800000u | (fraction << 13));
  if (exponent != 0) return from_bits(sign | ((exponent + 112) << 23) | (fraction << 13));
  const float subnormal = static_cast<float>(fraction) * 0x1p-24f;
  return sign != 0 ? -subnormal : subnormal;
}

float f16_at(const uint8_t* base, int64_t index) {
  uint16_t bits;
  std::memcpy(&bits, base + 2 * index, 2);
  return from_f16(bits);
}

// The code of (channel, input) of one block: planes of 8, or of 4, 2 and 1 bits, low bits first; in a plane, 64-byte vectors of 16 channels × 4
// inputs share bytes, 8 / width of them.
uint32_t code_at(const uint8_t* block, int32_t bits, int64_t channel, int64_t input) {
  const int64_t vector = input / 4 * 2 + channel / 16, byte = channel % 16 * 4 + input % 4;
  uint32_t code = 0;
  int32_t shift = 0;
  for (const int32_t width : {8, 4, 2, 1}) {
    if (bits - shift < width) continue;
    const int64_t per = 8 / width;
    const uint32_t packed = block[128 * shift + 64 * (vector / per) + byte];
    code |= (packed >> (width * (vector % per)) & ((1u << width) - 1u)) << shift;
    shift += width;
  }
  return code;
}

void unpack_codes(const Matrix& w, int64_t row, float* out) {
  const int64_t tile = row / kBlock, channel = row % kBlock, groups = w.k / w.group;
  const uint8_t* codes = w.codes + tile * (w.k / kBlock) * 128 * w.bits;
  for (int64_t k = 0; k < w.k; ++k) {
    const int64_t unit = (tile * groups + k / w.group) * kBlock + channel;
    float scale, minimum = 0.0f;
    if (w.super == 0) {
      scale = f16_at(w.scales, unit);
      if (w.mins != nullptr) minimum = f16_at(w.mins, unit);
    } else {
      const int64_t top = (tile * (w.k / w.super) + k / w.super) * (w.mins != nullptr ? 2 : 1) * kBlock + channel;
      scale = f16_at(w.scales, top) * static_cast<float>(static_cast<int8_t>(w.subscales[unit]));
      if (w.mins != nullptr) minimum = f16_at(w.scales, top + kBlock) * static_cast<float>(w.mins[unit]);
    }
    const auto code = static_cast<int32_t>(code_at(codes + k / kBlock * 128 * w.bits, w.bits, channel, k % kBlock));
    out[k] = scale * static_cast<float>(code - w.zero) - minimum;
  }
}

}  // namespace

void unpack_row(const Matrix& w, int64_t row, float* out) {
  switch (w.layout) {
    case Layout::f32:
      std::memcpy(out, w.codes + row * w.k * 4, static_cast<size_t>(w.k) * 4);
      break;
    case Layout::bf16:
      for (int64_t i = 0; i < w.k; ++i) {
        uint16_t bits;
        std::memcpy(&bits, w.codes + (row * w.k + i) * 2, 2);
        out[i] = from_bits(static_cast<uint32_t>(bits) << 16);
      }
      break;
    case Layout::f16:
      for (int64_t i = 0; i < w.k; ++i) out[i] = f16_at(w.codes, row * w.k + i);
      break;
    case Layout::codes:
      unpack_codes(w, row, out);
      break;
  }
}

}  // namespace penstock
