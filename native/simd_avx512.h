// simd.h on AVX-512 F, BW, VL, DQ and VNNI: one register for sixteen lanes. Knows nothing about kernels. Invariant: that of simd.h.
#pragma once
#include <immintrin.h>

namespace penstock {
namespace {

struct f32x16 {
  __m512 v;
};
struct i32x16 {
  __m512i v;
};
struct u8x64 {
  __m512i v;
};
struct mask16 {
  __mmask16 v;
};

inline __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }

inline f32x16 set1(float x) { return {_mm512_set1_ps(x)}; }
inline f32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline f32x16 load_n(const float* p, int n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
inline void store(float* p, f32x16 a) { _mm512_storeu_ps(p, a.v); }
inline void store_n(float* p, f32x16 a, int n) { _mm512_mask_storeu_ps(p, first(n), a.v); }
inline f32x16 load_bf16(const uint16_t* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
inline f32x16 load_bf16_n(const uint16_t* p, int n) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(n), p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
inline f32x16 load_f16_n(const uint16_t* p, int n) { return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p))}; }
inline f32x16 load_f16(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}; }

inline f32x16 operator+(f32x16 a, f32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline f32x16 operator-(f32x16 a, f32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline f32x16 operator*(f32x16 a, f32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline f32x16 operator/(f32x16 a, f32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline f32x16 sqrt(f32x16 a) { return {_mm512_sqrt_ps(a.v)}; }
inline f32x16 max(f32x16 a, f32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline f32x16 min(f32x16 a, f32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline f32x16 round_even(f32x16 a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline f32x16 times_power(f32x16 a, f32x16 n) { return {_mm512_scalef_ps(a.v, n.v)}; }
inline mask16 lt(f32x16 a, f32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline mask16 le(f32x16 a, f32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
inline mask16 is_nan(f32x16 a) { return {_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q)}; }
inline f32x16 select(mask16 m, f32x16 a, f32x16 b) { return {_mm512_mask_blend_ps(m.v, b.v, a.v)}; }

inline i32x16 set1_i32(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline i32x16 load_i32(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
inline void store_i32(int32_t* p, i32x16 a) { _mm512_storeu_si512(p, a.v); }
inline i32x16 operator+(i32x16 a, i32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline i32x16 operator-(i32x16 a, i32x16 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
inline i32x16 operator*(i32x16 a, i32x16 b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
inline i32x16 operator&(i32x16 a, i32x16 b) { return {_mm512_and_si512(a.v, b.v)}; }
inline i32x16 operator|(i32x16 a, i32x16 b) { return {_mm512_or_si512(a.v, b.v)}; }
inline i32x16 operator^(i32x16 a, i32x16 b) { return {_mm512_xor_si512(a.v, b.v)}; }
template <int N>
inline i32x16 shl(i32x16 a) {
  return {_mm512_slli_epi32(a.v, N)};
}
template <int N>
inline i32x16 shr(i32x16 a) {
  return {_mm512_srai_epi32(a.v, N)};
}
inline mask16 gt(i32x16 a, i32x16 b) { return {_mm512_cmpgt_epi32_mask(a.v, b.v)}; }
inline i32x16 select(mask16 m, i32x16 a, i32x16 b) { return {_mm512_mask_blend_epi32(m.v, b.v, a.v)}; }
inline i32x16 to_i32(f32x16 a) { return {_mm512_cvtps_epi32(a.v)}; }
inline f32x16 to_f32(i32x16 a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline i32x16 as_i32(f32x16 a) { return {_mm512_castps_si512(a.v)}; }
inline f32x16 as_f32(i32x16 a) { return {_mm512_castsi512_ps(a.v)}; }
inline i32x16 load_i8(const int8_t* p) { return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))}; }
inline i32x16 load_u8_wide(const uint8_t* p) {
  return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
inline void store_i8(int8_t* p, i32x16 a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v)); }

inline i32x16 bf16_bits(f32x16 v);
inline void store_bf16(uint16_t* p, f32x16 a) {
  const __m512i high = _mm512_srli_epi32(bf16_bits(a).v, 16);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(high));
}
inline void store_bf16_n(uint16_t* p, f32x16 a, int n) {
  const __m512i high = _mm512_srli_epi32(bf16_bits(a).v, 16);
  _mm256_mask_storeu_epi16(p, first(n), _mm512_cvtepi32_epi16(high));
}

inline float sum(f32x16 a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float max_lane(f32x16 a) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

inline u8x64 load_u8(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
inline void store_u8(uint8_t* p, u8x64 a) { _mm512_storeu_si512(p, a.v); }
inline u8x64 and_u8(u8x64 a, uint8_t byte) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(static_cast<char>(byte)))}; }
inline u8x64 or_u8(u8x64 a, u8x64 b) { return {_mm512_or_si512(a.v, b.v)}; }
template <int N>
inline u8x64 shr_u8(u8x64 a) {
  return {_mm512_srli_epi16(a.v, N)};
}
template <int N>
inline u8x64 shl_u8(u8x64 a) {
  return {_mm512_slli_epi16(a.v, N)};
}
inline u8x64 load_table(const uint8_t* p) {
  return {_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
inline u8x64 lookup(u8x64 table, u8x64 codes) { return {_mm512_shuffle_epi8(table.v, codes.v)}; }
template <int Bits>
inline i32x16 dot(i32x16 acc, u8x64 codes, int32_t x4) {
  return {_mm512_dpbusd_epi32(acc.v, codes.v, _mm512_set1_epi32(x4))};
}

// What dot() leaves out, as a multiple of the sum of x.
template <int Bits>
constexpr int32_t dot_bias() {
  return 0;
}

constexpr int kAttendRows = 12;             // rows of attention that share a load of keys or values
constexpr int kAttendBlock = 24;            // rows × 16 dimensions of values kept in registers
constexpr int kCodeRows = 6;                // rows × 16 · kHalves channels kept in registers by the code kernel
constexpr bool kDirectCodes = true;         // few rows read packed codes as they are, not unpacked to bytes first
constexpr int kDirectRows = 3 * kCodeRows;  // rows up to which this holds for codes of other widths, and through a codebook
constexpr int kDirectFours = 96;            // rows up to which this holds for codes of four bits without a codebook
constexpr int kBytesAhead = 6144;           // how far ahead one row asks for codes of eight bits
constexpr int kBytesStride = 128;           // and in steps of how many bytes
constexpr int kHalves = 2;
constexpr int kFloatRows = 6;  // rows × kFloatChannels accumulators of the float kernel
constexpr int kFloatChannels = 4;
constexpr int kFloatChannels1 = 8;  // channels at a time when there is one row

}  // namespace
}  // namespace penstock
