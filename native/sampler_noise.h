// The counter-based noise of sampling, for the sampler and the tiers alike. Knows nothing about logits.
// Invariant: everything has internal linkage, so that no function compiled for one tier is linked into another.
#pragma once
#include <cstdint>

namespace penstock {
namespace {

constexpr uint64_t kGolden = 0x9e3779b97f4a7c15ull;

// Finaliser of SplitMix64 (Steele, Lea and Flood 2014).
inline uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

// What one position's key makes of a token: 53 bits.
inline uint64_t noise_bits(uint64_t key, int32_t token) { return mix(key + (static_cast<uint64_t>(token) + 1) * kGolden) >> 11; }

// Those bits as a number in (0, 1).
inline double noise_uniform(uint64_t bits) { return (static_cast<double>(bits) + 0.5) * 0x1p-53; }

}  // namespace
}  // namespace penstock
