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

// 2^(e - 128); the two smallest are subnormal.
float from_e8m0(uint32_t e) { return from_bits(e < 2 ? (e + 1) << 21 : (e - 1) << 23); }

struct Levels {
  float scale, minimum;
};

// Sub-scale `unit` of six bits around 32: group · 32 + channel; the fourth of each four groups lies in the top bits of the three others.
int32_t six_bits_at(const uint8_t* subscales, int64_t unit) {
  const uint8_t* p = subscales + unit / 128 * 96 + unit % 32;
  const int64_t j = unit / 32 % 4;
  const int32_t code = j < 3 ? p[32 * j] & 63 : (p[0] >> 6) | (p[32] >> 6 << 2) | (p[64] >> 6 << 4);
  return code - 32;
}

// Scale and minimum of one group and channel, `unit` = group · 32 + channel, `top` the place of its super-scale.
Levels levels_at(const Matrix& w, int64_t unit, int64_t top) {
  switch (w.scale_form) {
    case ScaleForm::e8m0:
      return {from_e8m0(w.scales[unit]), 0.0f};
    case ScaleForm::nibbles:
      return {f16_at(w.scales, top) * static_cast<float>(w.subscales[unit] & 15),
              f16_at(w.scales, top + kBlock) * static_cast<float>(w.subscales[unit] >> 4)};
    case ScaleForm::six_bits:
      return {f16_at(w.scales, top) * static_cast<float>(six_bits_at(w.subscales, unit)), 0.0f};
    case ScaleForm::half:
      break;
  }
  if (w.super == 0) return {f16_at(w.scales, unit), w.mins != nullptr ? f16_at(w.mins, unit) : 0.0f};
  return {f16_at(w.scales, top) * static_cast<float>(static_cast<int8_t>(w.subscales[unit])),
          w.mins != nullptr ? f16_at(w.scales, top + kBlock) * static_cast<float>(w.mins[unit]) : 0.0f};
}

void unpack_codes(const Matrix& w, int64_t row, float* out) {
  const int64_t tile = row / kBlock, channel = row % kBlock, groups = w.k / w.group;
  const uint8_t* codes = w.codes + tile * (w.k / kBlock) * 128 * w.bits;
  const int64_t supers = w.super == 0 ? 0 : w.k / w.super, wide = w.has_minimum() ? 2 : 1;
  const int64_t run = w.group < kBlock ? w.group : kBlock;  // inputs of one scale
  for (int64_t start = 0; start < w.k; start += run) {
    const int64_t unit = (tile * groups + start / w.group) * kBlock + channel;
    const int64_t top = w.super == 0 ? 0 : (tile * supers + start / w.super) * wide * kBlock + channel;
    const Levels levels = levels_at(w, unit, top);
    const uint8_t* block = codes + start / kBlock * 128 * w.bits;
    for (int64_t k = start; k < start + run; ++k) {
      uint32_t code = code_at(block, w.bits, channel, k % kBlock);
      if (w.codebook != nullptr) code = w.codebook[code & 15u];
      out[k] = levels.scale * static_cast<float>(static_cast<int32_t>(code) - w.zero) - levels.minimum;
    }
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
