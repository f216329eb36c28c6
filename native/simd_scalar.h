// simd.h in plain C++: an array of sixteen lanes, for machines without the other tiers and as their reference. Knows nothing about
// kernels. Invariant: that of simd.h.
#pragma once

namespace penstock {
namespace {

struct f32x16 {
  float v[16];
};
struct i32x16 {
  int32_t v[16];
};
struct u8x64 {
  uint8_t v[64];
};
struct mask16 {
  bool v[16];
};

template <class Out, class F>
inline Out lanes(F f) {
  Out out;
  for (int i = 0; i < 16; ++i) out.v[i] = f(i);
  return out;
}

inline float bits_to_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float f16_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 31u, fraction = h & 1023u;
  if (exponent == 31) return bits_to_float(sign | 0x7f800000u | (fraction << 13) | (fraction ? 0x400000u : 0u));
  if (exponent) return bits_to_float(sign | ((exponent + 112) << 23) | (fraction << 13));
  const float subnormal = static_cast<float>(fraction) * 0x1p-24f;
  return sign ? -subnormal : subnormal;
}

inline f32x16 set1(float x) {
  return lanes<f32x16>([&](int) { return x; });
}
inline f32x16 load(const float* p) {
  return lanes<f32x16>([&](int i) { return p[i]; });
}
inline f32x16 load_n(const float* p, int n) {
  return lanes<f32x16>([&](int i) { return i < n ? p[i] : 0.0f; });
}
inline void store(float* p, f32x16 a) { memcpy(p, a.v, sizeof a.v); }
inline void store_n(float* p, f32x16 a, int n) { memcpy(p, a.v, sizeof(float) * static_cast<size_t>(n)); }
inline f32x16 load_bf16(const uint16_t* p) {
  return lanes<f32x16>([&](int i) { return bits_to_float(static_cast<uint32_t>(p[i]) << 16); });
}
inline f32x16 load_f16(const uint16_t* p) {
  return lanes<f32x16>([&](int i) { return f16_to_float(p[i]); });
}

inline f32x16 operator+(f32x16 a, f32x16 b) {
  return lanes<f32x16>([&](int i) { return a.v[i] + b.v[i]; });
}
inline f32x16 operator-(f32x16 a, f32x16 b) {
  return lanes<f32x16>([&](int i) { return a.v[i] - b.v[i]; });
}
inline f32x16 operator*(f32x16 a, f32x16 b) {
  return lanes<f32x16>([&](int i) { return a.v[i] * b.v[i]; });
}
inline f32x16 operator/(f32x16 a, f32x16 b) {
  return lanes<f32x16>([&](int i) { return a.v[i] / b.v[i]; });
}
inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
  return lanes<f32x16>([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
}
inline f32x16 sqrt(f32x16 a) {
  return lanes<f32x16>([&](int i) { return __builtin_sqrtf(a.v[i]); });
}
inline f32x16 max(f32x16 a, f32x16 b) {
  return lanes<f32x16>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline f32x16 min(f32x16 a, f32x16 b) {
  return lanes<f32x16>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline f32x16 round_even(f32x16 a) {
  return lanes<f32x16>([&](int i) { return __builtin_rintf(a.v[i]); });
}
inline mask16 lt(f32x16 a, f32x16 b) {
  return lanes<mask16>([&](int i) { return a.v[i] < b.v[i]; });
}
inline mask16 le(f32x16 a, f32x16 b) {
  return lanes<mask16>([&](int i) { return a.v[i] <= b.v[i]; });
}
inline mask16 is_nan(f32x16 a) {
  return lanes<mask16>([&](int i) { return a.v[i] != a.v[i]; });
}
inline f32x16 select(mask16 m, f32x16 a, f32x16 b) {
  return lanes<f32x16>([&](int i) { return m.v[i] ? a.v[i] : b.v[i]; });
}

// Wrapping arithmetic, as the vector units do it.
inline int32_t wrap(uint32_t x) { return static_cast<int32_t>(x); }
inline uint32_t raw(int32_t x) { return static_cast<uint32_t>(x); }
inline i32x16 set1_i32(int32_t x) {
  return lanes<i32x16>([&](int) { return x; });
}
inline i32x16 load_i32(const int32_t* p) {
  return lanes<i32x16>([&](int i) { return p[i]; });
}
inline void store_i32(int32_t* p, i32x16 a) { memcpy(p, a.v, sizeof a.v); }
inline i32x16 operator+(i32x16 a, i32x16 b) {
  return lanes<i32x16>([&](int i) { return wrap(raw(a.v[i]) + raw(b.v[i])); });
}
inline i32x16 operator-(i32x16 a, i32x16 b) {
  return lanes<i32x16>([&](int i) { return wrap(raw(a.v[i]) - raw(b.v[i])); });
}
inline i32x16 operator*(i32x16 a, i32x16 b) {
  return lanes<i32x16>([&](int i) { return wrap(raw(a.v[i]) * raw(b.v[i])); });
}
inline i32x16 operator&(i32x16 a, i32x16 b) {
  return lanes<i32x16>([&](int i) { return a.v[i] & b.v[i]; });
}
inline i32x16 operator|(i32x16 a, i32x16 b) {
  return lanes<i32x16>([&](int i) { return a.v[i] | b.v[i]; });
}
inline i32x16 operator^(i32x16 a, i32x16 b) {
  return lanes<i32x16>([&](int i) { return a.v[i] ^ b.v[i]; });
}
template <int N>
inline i32x16 shl(i32x16 a) {
  return lanes<i32x16>([&](int i) { return wrap(raw(a.v[i]) << N); });
}
template <int N>
inline i32x16 shr(i32x16 a) {
  return lanes<i32x16>([&](int i) { return a.v[i] >> N; });
}
inline mask16 gt(i32x16 a, i32x16 b) {
  return lanes<mask16>([&](int i) { return a.v[i] > b.v[i]; });
}
inline i32x16 select(mask16 m, i32x16 a, i32x16 b) {
  return lanes<i32x16>([&](int i) { return m.v[i] ? a.v[i] : b.v[i]; });
}
// Out of range and NaN give INT32_MIN, as on x86.
inline i32x16 to_i32(f32x16 a) {
  return lanes<i32x16>([&](int i) {
    const float r = __builtin_rintf(a.v[i]);
    return r >= -0x1p31f && r < 0x1p31f ? static_cast<int32_t>(r) : INT32_MIN;
  });
}
inline f32x16 to_f32(i32x16 a) {
  return lanes<f32x16>([&](int i) { return static_cast<float>(a.v[i]); });
}
inline i32x16 as_i32(f32x16 a) {
  return lanes<i32x16>([&](int i) { return wrap(float_to_bits(a.v[i])); });
}
inline f32x16 as_f32(i32x16 a) {
  return lanes<f32x16>([&](int i) { return bits_to_float(raw(a.v[i])); });
}
inline i32x16 load_i8(const int8_t* p) {
  return lanes<i32x16>([&](int i) { return p[i]; });
}
inline i32x16 load_u8_wide(const uint8_t* p) {
  return lanes<i32x16>([&](int i) { return p[i]; });
}
inline void store_i8(int8_t* p, i32x16 a) {
  for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(a.v[i]);
}

inline i32x16 bf16_bits(f32x16 v);
inline void store_bf16(uint16_t* p, f32x16 a) {
  const i32x16 bits = bf16_bits(a);
  for (int i = 0; i < 16; ++i) p[i] = static_cast<uint16_t>(raw(bits.v[i]) >> 16);
}

inline float sum(f32x16 a) {
  for (int width = 8; width; width /= 2)
    for (int i = 0; i < width; ++i) a.v[i] = a.v[i] + a.v[i + width];
  return a.v[0];
}
inline float max_lane(f32x16 a) {
  for (int width = 8; width; width /= 2)
    for (int i = 0; i < width; ++i) a.v[i] = a.v[i] > a.v[i + width] ? a.v[i] : a.v[i + width];
  return a.v[0];
}

template <class F>
inline u8x64 bytes(F f) {
  u8x64 out;
  for (int i = 0; i < 64; ++i) out.v[i] = static_cast<uint8_t>(f(i));
  return out;
}
inline u8x64 load_u8(const uint8_t* p) {
  return bytes([&](int i) { return p[i]; });
}
inline void store_u8(uint8_t* p, u8x64 a) { memcpy(p, a.v, sizeof a.v); }
inline u8x64 and_u8(u8x64 a, uint8_t byte) {
  return bytes([&](int i) { return a.v[i] & byte; });
}
inline u8x64 or_u8(u8x64 a, u8x64 b) {
  return bytes([&](int i) { return a.v[i] | b.v[i]; });
}
template <int N>
inline u8x64 shr_u8(u8x64 a) {
  return bytes([&](int i) { return a.v[i] >> N; });
}
template <int N>
inline u8x64 shl_u8(u8x64 a) {
  return bytes([&](int i) { return a.v[i] << N; });
}
inline u8x64 load_table(const uint8_t* p) {
  return bytes([&](int i) { return p[i % 16]; });
}
inline u8x64 lookup(const u8x64& table, const u8x64& codes) {
  return bytes([&](int i) { return table.v[codes.v[i] % 16]; });
}
template <int Bits>
inline i32x16 dot(i32x16 acc, const u8x64& codes, int32_t x4) {
  int8_t x[4];
  memcpy(x, &x4, sizeof x);
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 4; ++j) acc.v[i] += codes.v[4 * i + j] * x[j];
  return acc;
}

// What dot() leaves out, as a multiple of the sum of x.
template <int Bits>
constexpr int32_t dot_bias() {
  return 0;
}

constexpr int kAttendRows = 2;        // rows of attention that share a load of keys or values
constexpr int kAttendBlock = 2;       // rows × 16 dimensions of values kept in registers
constexpr int kCodeRows = 4;          // rows × 16 · kHalves channels kept in registers by the code kernel
constexpr bool kDirectCodes = false;  // few rows read packed codes as they are, not unpacked to bytes first
constexpr int kDirectRows = 0;        // rows up to which this holds for codes of other widths, and through a codebook
constexpr int kDirectFours = 0;       // rows up to which this holds for codes of four bits without a codebook
constexpr int kBytesAhead = 2048;     // how far ahead one row asks for codes of eight bits
constexpr int kBytesStride = 64;      // and in steps of how many bytes
constexpr int kHalves = 2;
constexpr int kFloatRows = 2;  // rows × kFloatChannels accumulators of the float kernel
constexpr int kFloatChannels = 2;
constexpr int kFloatChannels1 = 2;  // channels at a time when there is one row

}  // namespace
}  // namespace penstock
