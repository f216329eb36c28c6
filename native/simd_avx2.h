// simd.h on AVX2, FMA and F16C: two registers for sixteen lanes. Knows nothing about kernels. Invariant: that of simd.h.
#pragma once
#include <immintrin.h>

namespace penstock {
namespace {

struct f32x16 {
  __m256 a, b;
};
struct i32x16 {
  __m256i a, b;
};
struct u8x64 {
  __m256i a, b;
};
struct mask16 {
  __m256 a, b;
};

inline __m256i first8(int n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }
inline __m256i load_256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline __m128i load_128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline void store_256(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }

inline f32x16 set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline f32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline f32x16 load_n(const float* p, int n) {
  return {_mm256_maskload_ps(p, first8(n)), _mm256_maskload_ps(p + 8, first8(n - 8))};
}
inline void store(float* p, f32x16 v) {
  _mm256_storeu_ps(p, v.a);
  _mm256_storeu_ps(p + 8, v.b);
}
inline void store_n(float* p, f32x16 v, int n) {
  _mm256_maskstore_ps(p, first8(n), v.a);
  _mm256_maskstore_ps(p + 8, first8(n - 8), v.b);
}
inline __m256 widen_bf16(__m128i v) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16)); }
inline f32x16 load_bf16(const uint16_t* p) { return {widen_bf16(load_128(p)), widen_bf16(load_128(p + 8))}; }
inline f32x16 load_f16(const uint16_t* p) { return {_mm256_cvtph_ps(load_128(p)), _mm256_cvtph_ps(load_128(p + 8))}; }

inline f32x16 operator+(f32x16 x, f32x16 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline f32x16 operator-(f32x16 x, f32x16 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline f32x16 operator*(f32x16 x, f32x16 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline f32x16 operator/(f32x16 x, f32x16 y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline f32x16 fma(f32x16 x, f32x16 y, f32x16 z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
inline f32x16 sqrt(f32x16 x) { return {_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)}; }
inline f32x16 max(f32x16 x, f32x16 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline f32x16 min(f32x16 x, f32x16 y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline __m256 round8(__m256 x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline f32x16 round_even(f32x16 x) { return {round8(x.a), round8(x.b)}; }
inline mask16 lt(f32x16 x, f32x16 y) { return {_mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ)}; }
inline mask16 le(f32x16 x, f32x16 y) { return {_mm256_cmp_ps(x.a, y.a, _CMP_LE_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_LE_OQ)}; }
inline mask16 is_nan(f32x16 x) { return {_mm256_cmp_ps(x.a, x.a, _CMP_UNORD_Q), _mm256_cmp_ps(x.b, x.b, _CMP_UNORD_Q)}; }
inline f32x16 select(mask16 m, f32x16 x, f32x16 y) { return {_mm256_blendv_ps(y.a, x.a, m.a), _mm256_blendv_ps(y.b, x.b, m.b)}; }

inline i32x16 set1_i32(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline i32x16 load_i32(const int32_t* p) { return {load_256(p), load_256(p + 8)}; }
inline void store_i32(int32_t* p, i32x16 v) {
  store_256(p, v.a);
  store_256(p + 8, v.b);
}
inline i32x16 operator+(i32x16 x, i32x16 y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
inline i32x16 operator-(i32x16 x, i32x16 y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
inline i32x16 operator*(i32x16 x, i32x16 y) { return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)}; }
inline i32x16 operator&(i32x16 x, i32x16 y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
inline i32x16 operator|(i32x16 x, i32x16 y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
inline i32x16 operator^(i32x16 x, i32x16 y) { return {_mm256_xor_si256(x.a, y.a), _mm256_xor_si256(x.b, y.b)}; }
template <int N>
inline i32x16 shl(i32x16 x) {
  return {_mm256_slli_epi32(x.a, N), _mm256_slli_epi32(x.b, N)};
}
template <int N>
inline i32x16 shr(i32x16 x) {
  return {_mm256_srai_epi32(x.a, N), _mm256_srai_epi32(x.b, N)};
}
inline mask16 gt(i32x16 x, i32x16 y) {
  return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(x.a, y.a)), _mm256_castsi256_ps(_mm256_cmpgt_epi32(x.b, y.b))};
}
inline i32x16 to_i32(f32x16 x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
inline f32x16 to_f32(i32x16 x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline i32x16 as_i32(f32x16 x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
inline f32x16 as_f32(i32x16 x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
inline i32x16 select(mask16 m, i32x16 x, i32x16 y) { return as_i32(select(m, as_f32(x), as_f32(y))); }
inline i32x16 load_i8(const int8_t* p) {
  const __m128i v = load_128(p);
  return {_mm256_cvtepi8_epi32(v), _mm256_cvtepi8_epi32(_mm_srli_si128(v, 8))};
}
inline i32x16 load_u8_wide(const uint8_t* p) {
  const __m128i v = load_128(p);
  return {_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8))};
}
// Lanes to sixteen 16-bit values in order; the lanes fit.
inline __m256i narrow16(__m256i a, __m256i b) { return _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8); }
inline void store_i8(int8_t* p, i32x16 v) {
  const __m256i words = narrow16(v.a, v.b);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

inline i32x16 bf16_bits(f32x16 v);
inline void store_bf16(uint16_t* p, f32x16 v) {
  const i32x16 bits = shr<16>(bf16_bits(v));
  store_256(p, narrow16(bits.a, bits.b));
}

inline float sum(f32x16 x) {
  const __m256 eight = _mm256_add_ps(x.a, x.b);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float max_lane(f32x16 x) {
  const __m256 eight = _mm256_max_ps(x.a, x.b);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

inline u8x64 load_u8(const uint8_t* p) { return {load_256(p), load_256(p + 32)}; }
inline void store_u8(uint8_t* p, u8x64 v) {
  store_256(p, v.a);
  store_256(p + 32, v.b);
}
inline u8x64 and_u8(u8x64 x, uint8_t byte) {
  const __m256i m = _mm256_set1_epi8(static_cast<char>(byte));
  return {_mm256_and_si256(x.a, m), _mm256_and_si256(x.b, m)};
}
inline u8x64 or_u8(u8x64 x, u8x64 y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
template <int N>
inline u8x64 shr_u8(u8x64 x) {
  return {_mm256_srli_epi16(x.a, N), _mm256_srli_epi16(x.b, N)};
}
template <int N>
inline u8x64 shl_u8(u8x64 x) {
  return {_mm256_slli_epi16(x.a, N), _mm256_slli_epi16(x.b, N)};
}
inline __m256i load_table8(const uint8_t* p) { return _mm256_broadcastsi128_si256(load_128(p)); }
inline u8x64 load_table(const uint8_t* p) { return {load_table8(p), load_table8(p)}; }
inline u8x64 lookup(u8x64 table, u8x64 codes) {
  return {_mm256_shuffle_epi8(table.a, codes.a), _mm256_shuffle_epi8(table.b, codes.b)};
}

// Codes up to 127 times |x| ≤ 127: a pair is at most 32,258 and cannot saturate vpmaddubsw. An 8-bit code is split into its low seven
// bits and its top bit (128 · 127 · 2 = 32,512), summed in 32 bits.
template <int Bits>
inline __m256i dot8(__m256i acc, __m256i codes, __m256i x) {
  const __m256i ones = _mm256_set1_epi16(1);
  if constexpr (Bits == 8) {
    const __m256i low = _mm256_maddubs_epi16(_mm256_and_si256(codes, _mm256_set1_epi8(127)), x);
    const __m256i high = _mm256_maddubs_epi16(_mm256_and_si256(codes, _mm256_set1_epi8(-128)), x);
    return _mm256_add_epi32(acc, _mm256_add_epi32(_mm256_madd_epi16(low, ones), _mm256_madd_epi16(high, ones)));
  } else {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, x), ones));
  }
}
template <int Bits>
inline i32x16 dot(i32x16 acc, u8x64 codes, int32_t x4) {
  const __m256i x = _mm256_set1_epi32(x4);
  return {dot8<Bits>(acc.a, codes.a, x), dot8<Bits>(acc.b, codes.b, x)};
}

// What dot() leaves out, as a multiple of the sum of x.
template <int Bits>
constexpr int32_t dot_bias() {
  return 0;
}

constexpr int kAttendRows = 6;           // rows of attention that share a load of keys or values
constexpr int kAttendBlock = 6;          // rows × 16 dimensions of values kept in registers
constexpr int kCodeRows = 4;             // rows × 16 · kHalves channels kept in registers by the code kernel
constexpr bool kDirectCodes = true;      // few rows read packed codes as they are, not unpacked to bytes first
constexpr int kDirectRows = kCodeRows;   // rows up to which this holds for codes of other widths, and through a codebook
constexpr int kDirectFours = kCodeRows;  // rows up to which this holds for codes of four bits without a codebook
constexpr int kBytesAhead = 2048;        // how far ahead one row asks for codes of eight bits
constexpr int kBytesStride = 64;         // and in steps of how many bytes
constexpr int kHalves = 1;
constexpr int kFloatRows = 3;  // rows × kFloatChannels accumulators of the float kernel
constexpr int kFloatChannels = 2;
constexpr int kFloatChannels1 = 4;  // channels at a time when there is one row

}  // namespace
}  // namespace penstock
