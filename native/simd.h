// Sixteen lanes of f32 and i32 on every tier: one zmm, two ymm, four NEON registers or a plain array. Knows nothing about kernels.
// Invariant: each operation is correctly rounded or exact, and reductions have one fixed tree, so that code written over these types
// gives the same bits on every tier. Included by tier files only (tiers/*.cc), which define PENSTOCK_TIER_<NAME> first.
//
//   f32x16  zero() set1(x) load(p) load_n(p, n) load_bf16(p) load_bf16_n(p, n) load_f16(p) load_f16_n(p, n)
//           store(p, v) store_n(p, v, n) store_bf16(p, v) store_bf16_n(p, v, n)      n in [0, 16]; missing lanes load as +0
//           + - * /  fma(a, b, c) = a·b + c  fnma(a, b, c) = c - a·b  sqrt neg abs
//           max(a, b) = a > b ? a : b   min(a, b) = a < b ? a : b   round_even(v)
//           times_power(a, n): a · 2^n, n an integer in [-126, 127]
//           lt(a, b) le(a, b) is_nan(v) → mask16;  select(mask, a, b)
//           sum(v): lanes i + (i+8), then +4, +2, +1;  max_lane(v): the same tree with max
//   i32x16  set1_i32(x) load_i32(p) store_i32(p, v) + - * & |  shl<n>(v) shr<n>(v) (arithmetic)
//           to_i32(f) (round to even; |f| < 2^31)  to_f32(i)  as_i32(f) as_f32(i) (bits)  gt(a, b) → mask16  select(mask, a, b)
//   u8x64   load_u8(p), and_u8(v, byte), shr_u8<n>(v) (bits shifted in from the neighbour byte are garbage: mask after), or_u8, shl_u8<n>
//           load_table(p) sixteen bytes; lookup(table, codes) the byte that each code (0 to 15) names
//           dot<Bits>(acc, codes, x4): acc.i32[l] += Σ_j codes[4l+j] · x4[j], unsigned codes < 2^Bits times signed bytes, exact
//           (or short of it by dot_bias<Bits>() · Σ x, for units whose codes are signed)
#pragma once
#include <cstdint>
#include <cstring>

#if defined(PENSTOCK_TIER_AVX512)
#include "simd_avx512.h"
#elif defined(PENSTOCK_TIER_AVX2)
#include "simd_avx2.h"
#elif defined(PENSTOCK_TIER_NEON)
#include "simd_neon.h"
#elif defined(PENSTOCK_TIER_SCALAR)
#include "simd_scalar.h"
#else
#error "a tier file defines PENSTOCK_TIER_<NAME> before it includes simd.h"
#endif

namespace penstock {
namespace {

inline f32x16 zero() { return set1(0.0f); }
inline f32x16 neg(f32x16 a) { return as_f32(as_i32(a) ^ set1_i32(INT32_MIN)); }
inline f32x16 abs(f32x16 a) { return as_f32(as_i32(a) & set1_i32(INT32_MAX)); }
inline f32x16 fnma(f32x16 a, f32x16 b, f32x16 c) { return fma(neg(a), b, c); }

// Upper halves of the lanes' bits after rounding to nearest even; NaN stays NaN.
inline i32x16 bf16_bits(f32x16 v) {
  const i32x16 bits = as_i32(v);
  const i32x16 odd = shr<16>(bits) & set1_i32(1);
  const i32x16 rounded = bits + (set1_i32(0x7fff) + odd);
  return select(is_nan(v), bits | set1_i32(0x400000), rounded);
}

#if !defined(PENSTOCK_TIER_AVX512)  // which has masks and an instruction for these
inline f32x16 times_power(f32x16 a, f32x16 n) { return a * as_f32(shl<23>(to_i32(n) + set1_i32(127))); }

inline void store_bf16_n(uint16_t* p, f32x16 v, int n) {
  uint16_t lanes[16];
  store_bf16(lanes, v);
  memcpy(p, lanes, sizeof(uint16_t) * static_cast<size_t>(n));
}

inline f32x16 load_bf16_n(const uint16_t* p, int n) {
  uint16_t lanes[16] = {};
  memcpy(lanes, p, sizeof(uint16_t) * static_cast<size_t>(n));
  return load_bf16(lanes);
}

inline f32x16 load_f16_n(const uint16_t* p, int n) {
  uint16_t lanes[16] = {};
  memcpy(lanes, p, sizeof(uint16_t) * static_cast<size_t>(n));
  return load_f16(lanes);
}
#endif

inline int32_t load_x4(const int8_t* p) {
  int32_t value;
  memcpy(&value, p, sizeof value);
  return value;
}

}  // namespace
}  // namespace penstock
