// simd.h on Advanced SIMD with dot products (Armv8.2-A): four registers for sixteen lanes. Knows nothing about kernels.
// Invariant: that of simd.h.
#pragma once
#include <arm_neon.h>

namespace penstock {
namespace {

struct f32x16 {
  float32x4_t v[4];
};
struct i32x16 {
  int32x4_t v[4];
};
struct u8x64 {
  uint8x16_t v[4];
};
struct mask16 {
  uint32x4_t v[4];
};

template <class Out, class F>
inline Out quarters(F f) {
  return {{f(0), f(1), f(2), f(3)}};
}

inline f32x16 set1(float x) {
  return quarters<f32x16>([&](int) { return vdupq_n_f32(x); });
}
inline f32x16 load(const float* p) {
  return quarters<f32x16>([&](int i) { return vld1q_f32(p + 4 * i); });
}
inline f32x16 load_n(const float* p, int n) {
  float lane[16] = {};
  memcpy(lane, p, sizeof(float) * static_cast<size_t>(n));
  return load(lane);
}
inline void store(float* p, f32x16 a) {
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, a.v[i]);
}
inline void store_n(float* p, f32x16 a, int n) {
  float lane[16];
  store(lane, a);
  memcpy(p, lane, sizeof(float) * static_cast<size_t>(n));
}
inline f32x16 load_bf16(const uint16_t* p) {
  return quarters<f32x16>([&](int i) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)); });
}
inline f32x16 load_f16(const uint16_t* p) {
  return quarters<f32x16>([&](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); });
}

inline f32x16 operator+(f32x16 a, f32x16 b) {
  return quarters<f32x16>([&](int i) { return vaddq_f32(a.v[i], b.v[i]); });
}
inline f32x16 operator-(f32x16 a, f32x16 b) {
  return quarters<f32x16>([&](int i) { return vsubq_f32(a.v[i], b.v[i]); });
}
inline f32x16 operator*(f32x16 a, f32x16 b) {
  return quarters<f32x16>([&](int i) { return vmulq_f32(a.v[i], b.v[i]); });
}
inline f32x16 operator/(f32x16 a, f32x16 b) {
  return quarters<f32x16>([&](int i) { return vdivq_f32(a.v[i], b.v[i]); });
}
inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
  return quarters<f32x16>([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
}
inline f32x16 sqrt(f32x16 a) {
  return quarters<f32x16>([&](int i) { return vsqrtq_f32(a.v[i]); });
}
inline float32x4_t max4(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
inline float32x4_t min4(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
inline f32x16 max(f32x16 a, f32x16 b) {
  return quarters<f32x16>([&](int i) { return max4(a.v[i], b.v[i]); });
}
inline f32x16 min(f32x16 a, f32x16 b) {
  return quarters<f32x16>([&](int i) { return min4(a.v[i], b.v[i]); });
}
inline f32x16 round_even(f32x16 a) {
  return quarters<f32x16>([&](int i) { return vrndnq_f32(a.v[i]); });
}
inline mask16 lt(f32x16 a, f32x16 b) {
  return quarters<mask16>([&](int i) { return vcltq_f32(a.v[i], b.v[i]); });
}
inline mask16 le(f32x16 a, f32x16 b) {
  return quarters<mask16>([&](int i) { return vcleq_f32(a.v[i], b.v[i]); });
}
inline mask16 is_nan(f32x16 a) {
  return quarters<mask16>([&](int i) { return vmvnq_u32(vceqq_f32(a.v[i], a.v[i])); });
}
inline f32x16 select(mask16 m, f32x16 a, f32x16 b) {
  return quarters<f32x16>([&](int i) { return vbslq_f32(m.v[i], a.v[i], b.v[i]); });
}

inline i32x16 set1_i32(int32_t x) {
  return quarters<i32x16>([&](int) { return vdupq_n_s32(x); });
}
inline i32x16 load_i32(const int32_t* p) {
  return quarters<i32x16>([&](int i) { return vld1q_s32(p + 4 * i); });
}
inline void store_i32(int32_t* p, i32x16 a) {
  for (int i = 0; i < 4; ++i) vst1q_s32(p + 4 * i, a.v[i]);
}
inline i32x16 operator+(i32x16 a, i32x16 b) {
  return quarters<i32x16>([&](int i) { return vaddq_s32(a.v[i], b.v[i]); });
}
inline i32x16 operator-(i32x16 a, i32x16 b) {
  return quarters<i32x16>([&](int i) { return vsubq_s32(a.v[i], b.v[i]); });
}
inline i32x16 operator*(i32x16 a, i32x16 b) {
  return quarters<i32x16>([&](int i) { return vmulq_s32(a.v[i], b.v[i]); });
}
inline i32x16 operator&(i32x16 a, i32x16 b) {
  return quarters<i32x16>([&](int i) { return vandq_s32(a.v[i], b.v[i]); });
}
inline i32x16 operator|(i32x16 a, i32x16 b) {
  return quarters<i32x16>([&](int i) { return vorrq_s32(a.v[i], b.v[i]); });
}
inline i32x16 operator^(i32x16 a, i32x16 b) {
  return quarters<i32x16>([&](int i) { return veorq_s32(a.v[i], b.v[i]); });
}
template <int N>
inline i32x16 shl(i32x16 a) {
  return quarters<i32x16>([&](int i) { return vshlq_n_s32(a.v[i], N); });
}
template <int N>
inline i32x16 shr(i32x16 a) {
  return quarters<i32x16>([&](int i) { return vshrq_n_s32(a.v[i], N); });
}
inline mask16 gt(i32x16 a, i32x16 b) {
  return quarters<mask16>([&](int i) { return vcgtq_s32(a.v[i], b.v[i]); });
}
inline i32x16 select(mask16 m, i32x16 a, i32x16 b) {
  return quarters<i32x16>([&](int i) { return vbslq_s32(m.v[i], a.v[i], b.v[i]); });
}
// Out of range and NaN give INT32_MIN, as on x86.
inline i32x16 to_i32(f32x16 a) {
  return quarters<i32x16>([&](int i) {
    const uint32x4_t fits = vandq_u32(vcgeq_f32(a.v[i], vdupq_n_f32(-0x1p31f)), vcltq_f32(a.v[i], vdupq_n_f32(0x1p31f)));
    return vbslq_s32(fits, vcvtnq_s32_f32(a.v[i]), vdupq_n_s32(INT32_MIN));
  });
}
inline f32x16 to_f32(i32x16 a) {
  return quarters<f32x16>([&](int i) { return vcvtq_f32_s32(a.v[i]); });
}
inline i32x16 as_i32(f32x16 a) {
  return quarters<i32x16>([&](int i) { return vreinterpretq_s32_f32(a.v[i]); });
}
inline f32x16 as_f32(i32x16 a) {
  return quarters<f32x16>([&](int i) { return vreinterpretq_f32_s32(a.v[i]); });
}
inline i32x16 load_i8(const int8_t* p) {
  const int8x16_t v = vld1q_s8(p);
  const int16x8_t low = vmovl_s8(vget_low_s8(v)), high = vmovl_s8(vget_high_s8(v));
  return {{vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)), vmovl_s16(vget_low_s16(high)),
           vmovl_s16(vget_high_s16(high))}};
}
inline i32x16 load_u8_wide(const uint8_t* p) {
  const uint8x16_t v = vld1q_u8(p);
  const uint16x8_t low = vmovl_u8(vget_low_u8(v)), high = vmovl_u8(vget_high_u8(v));
  return {{vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))), vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(low))),
           vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))), vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(high)))}};
}
inline void store_i8(int8_t* p, i32x16 a) {
  const int16x8_t low = vcombine_s16(vmovn_s32(a.v[0]), vmovn_s32(a.v[1])),
                  high = vcombine_s16(vmovn_s32(a.v[2]), vmovn_s32(a.v[3]));
  vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}

inline i32x16 bf16_bits(f32x16 v);
inline void store_bf16(uint16_t* p, f32x16 a) {
  const i32x16 bits = bf16_bits(a);
  for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, vshrn_n_u32(vreinterpretq_u32_s32(bits.v[i]), 16));
}

inline float sum(f32x16 a) {
  const float32x4_t low = vaddq_f32(a.v[0], a.v[2]), high = vaddq_f32(a.v[1], a.v[3]);
  const float32x4_t four = vaddq_f32(low, high);
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
inline float max_lane(f32x16 a) {
  const float32x4_t four = max4(max4(a.v[0], a.v[2]), max4(a.v[1], a.v[3]));
  const float x = vgetq_lane_f32(four, 0), y = vgetq_lane_f32(four, 1), z = vgetq_lane_f32(four, 2), w = vgetq_lane_f32(four, 3);
  const float p = x > z ? x : z, q = y > w ? y : w;
  return p > q ? p : q;
}

inline u8x64 load_u8(const uint8_t* p) {
  return quarters<u8x64>([&](int i) { return vld1q_u8(p + 16 * i); });
}
inline void store_u8(uint8_t* p, u8x64 a) {
  for (int i = 0; i < 4; ++i) vst1q_u8(p + 16 * i, a.v[i]);
}
inline u8x64 and_u8(u8x64 a, uint8_t byte) {
  return quarters<u8x64>([&](int i) { return vandq_u8(a.v[i], vdupq_n_u8(byte)); });
}
inline u8x64 or_u8(u8x64 a, u8x64 b) {
  return quarters<u8x64>([&](int i) { return vorrq_u8(a.v[i], b.v[i]); });
}
template <int N>
inline u8x64 shr_u8(u8x64 a) {
  return quarters<u8x64>([&](int i) { return vshrq_n_u8(a.v[i], N); });
}
template <int N>
inline u8x64 shl_u8(u8x64 a) {
  return quarters<u8x64>([&](int i) { return vshlq_n_u8(a.v[i], N); });
}
inline u8x64 load_table(const uint8_t* p) {
  return quarters<u8x64>([&](int) { return vld1q_u8(p); });
}
inline u8x64 lookup(u8x64 table, u8x64 codes) {
  return quarters<u8x64>([&](int i) { return vqtbl1q_u8(table.v[i], codes.v[i]); });
}

// SDOT multiplies signed bytes: codes up to 127 are taken as they are, 8-bit codes as code - 128, which dot_bias() makes up for.
template <int Bits>
constexpr int32_t dot_bias() {
  return Bits == 8 ? 128 : 0;
}
template <int Bits>
inline i32x16 dot(i32x16 acc, u8x64 codes, int32_t x4) {
  const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(x4));
  return quarters<i32x16>([&](int i) {
    const uint8x16_t code = Bits == 8 ? veorq_u8(codes.v[i], vdupq_n_u8(128)) : codes.v[i];
    return vdotq_s32(acc.v[i], vreinterpretq_s8_u8(code), x);
  });
}

constexpr int kAttendRows = 4;           // rows of attention that share a load of keys or values
constexpr int kAttendBlock = 4;          // rows × 16 dimensions of values kept in registers
constexpr int kCodeRows = 4;             // rows × 16 · kHalves channels kept in registers by the code kernel
constexpr bool kDirectCodes = true;      // few rows read packed codes as they are, not unpacked to bytes first
constexpr int kDirectRows = kCodeRows;   // rows up to which this holds for codes of other widths, and through a codebook
constexpr int kDirectFours = kCodeRows;  // rows up to which this holds for codes of four bits without a codebook
constexpr int kBytesAhead = 2048;        // how far ahead one row asks for codes of eight bits
constexpr int kBytesStride = 64;         // and in steps of how many bytes
constexpr int kHalves = 1;
constexpr int kFloatRows = 2;  // rows × kFloatChannels accumulators of the float kernel
constexpr int kFloatChannels = 3;
constexpr int kFloatChannels1 = 4;  // channels at a time when there is one row

}  // namespace
}  // namespace penstock
