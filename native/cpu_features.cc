// Which compiled tier this machine can run: the processor's word and the operating system's (saved registers). Knows nothing about kernels.
// Invariant: a tier is chosen only when both agree to every extension it is compiled with.
#include <cstring>

#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace penstock {

extern const Kernels kernels_scalar;
#if defined(__x86_64__)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#elif defined(__aarch64__)
extern const Kernels kernels_neon;
#endif

namespace {

#if defined(__x86_64__)
struct Registers {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(unsigned leaf) {
  Registers r;
  if (__get_cpuid_count(leaf, 0, &r.a, &r.b, &r.c, &r.d) == 0) return {};
  return r;
}

// XCR0: which register files the operating system saves; 0 where it cannot be asked.
uint64_t saved_registers() {
  if (!(cpuid(1).c & (1u << 27))) return 0;  // OSXSAVE
  unsigned low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

bool has(unsigned value, unsigned bits) { return (value & bits) == bits; }

bool runs_avx2() {
  constexpr unsigned fma = 1u << 12, avx = 1u << 28, f16c = 1u << 29, avx2 = 1u << 5;
  return has(cpuid(1).c, fma | avx | f16c) && has(cpuid(7).b, avx2) && (saved_registers() & 0x6) == 0x6;
}

bool runs_avx512() {
  constexpr unsigned f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31, vnni = 1u << 11;
  const Registers r = cpuid(7);
  return runs_avx2() && has(r.b, f | dq | bw | vl) && has(r.c, vnni) && (saved_registers() & 0xe6) == 0xe6;
}
#elif defined(__aarch64__)
bool runs_neon() {
#if defined(__linux__)
  // What armv8.2-a lets a compiler use beyond armv8-a, and dot products, which are an extension of it.
  constexpr unsigned long crc32 = 1ul << 7, atomics = 1ul << 8, rounding_multiply = 1ul << 12, dot_product = 1ul << 20;
  constexpr unsigned long all = crc32 | atomics | rounding_multiply | dot_product;
  return (getauxval(AT_HWCAP) & all) == all;
#else
  return true;  // every 64-bit Apple processor since 2018
#endif
}
#endif

}  // namespace

const Kernels* const* compiled_tiers() {
  static const Kernels* const tiers[] = {&kernels_scalar,
#if defined(__x86_64__)
                                         &kernels_avx2, &kernels_avx512,
#elif defined(__aarch64__)
                                         &kernels_neon,
#endif
                                         nullptr};
  return tiers;
}

bool tier_runs(const Kernels& tier) {
#if defined(__x86_64__)
  if (&tier == &kernels_avx2) return runs_avx2();
  if (&tier == &kernels_avx512) return runs_avx512();
#elif defined(__aarch64__)
  if (&tier == &kernels_neon) return runs_neon();
#endif
  return &tier == &kernels_scalar;
}

const Kernels* choose_tier(const char* name) {
  const bool any = name == nullptr || *name == '\0';
  const Kernels* chosen = nullptr;
  for (const Kernels* const* tier = compiled_tiers(); *tier; ++tier)
    if ((any || std::strcmp((*tier)->name, name) == 0) && tier_runs(**tier)) chosen = *tier;
  return chosen;
}

}  // namespace penstock
