// A program that runs the kernels of every tier of this machine over made-up inputs and fails unless all give the same bits; for
// machines that are reached through an emulator only. Knows nothing about Python.
// Invariant: exits 0 only when more than one tier ran and all agree; with "--break" one input differs, and it must exit 1.
#include <cstdio>
#include <cstring>
#include <vector>

#include "kernels.h"

namespace {

using penstock::Kernels;
using penstock::Layout;
using penstock::Matrix;

struct Chance {
  uint64_t state;
  uint32_t next() {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<uint32_t>(state >> 33);
  }
  float real() { return static_cast<float>(next() % 20001) / 10000.0f - 1.0f; }
};

struct Digest {
  uint64_t value = 1469598103934665603ull;
  void add(const void* data, size_t size) {
    const auto* p = static_cast<const unsigned char*>(data);
    for (size_t i = 0; i < size; ++i) value = (value ^ p[i]) * 1099511628211ull;
  }
};

void fill(std::vector<uint8_t>& bytes, Chance& chance) {
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(chance.next());
}

// Half-precision values between 2^-4 and 1, of either sign.
std::vector<uint8_t> halves(int64_t count, Chance& chance) {
  std::vector<uint8_t> bytes(static_cast<size_t>(2 * count));
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t h = static_cast<uint16_t>((chance.next() & 0x8fff) | 0x2c00);
    std::memcpy(bytes.data() + 2 * i, &h, 2);
  }
  return bytes;
}

void run(const Kernels& kernels, penstock::Pool& pool, const Matrix& w, int64_t rows, float nudge, Digest& digest) {
  Chance chance{99};
  std::vector<float> x(static_cast<size_t>(rows * w.k)), y(static_cast<size_t>(rows * w.n));
  for (float& v : x) v = chance.real();
  x[0] += nudge;
  penstock::Activations in;
  in.reset(x.data(), w.k, rows, w.k);
  penstock::linear(pool, kernels, w, in, nullptr, y.data(), w.n);
  digest.add(y.data(), y.size() * sizeof(float));
}

void run_codes(const Kernels& kernels, penstock::Pool& pool, float nudge, Digest& digest) {
  constexpr int64_t n = 70, k = 768, lanes = 96;
  Chance chance{7};
  for (int bits = 2; bits <= 8; ++bits) {
    for (int group : {16, 32, 256, 768}) {
      for (bool two : {false, true}) {
        if (two && group == 768) continue;
        std::vector<uint8_t> codes(static_cast<size_t>(lanes * k / 8 * bits)), sub(static_cast<size_t>(lanes * (k / group))),
            mins(sub.size());
        fill(codes, chance);
        fill(sub, chance);
        fill(mins, chance);
        const std::vector<uint8_t> scales = halves(two ? lanes * 3 * 2 : lanes * (k / group), chance),
                                   one = halves(lanes * (k / group), chance);
        const Matrix w{Layout::codes,
                       bits,
                       group,
                       n,
                       k,
                       codes.data(),
                       scales.data(),
                       two ? sub.data() : nullptr,
                       two ? mins.data() : one.data(),
                       two ? 256 : 0,
                       1 << (bits - 1)};
        for (int64_t rows : {1, 5, 9}) run(kernels, pool, w, rows, nudge, digest);
      }
    }
  }
}

void run_floats(const Kernels& kernels, penstock::Pool& pool, float nudge, Digest& digest) {
  constexpr int64_t n = 45, k = 172;
  Chance chance{3};
  std::vector<float> wide(static_cast<size_t>(n * k));
  for (float& v : wide) v = chance.real();
  const std::vector<uint8_t> narrow = halves(n * k, chance);
  const auto* bytes = reinterpret_cast<const uint8_t*>(wide.data());
  for (int64_t rows : {1, 2, 8}) {
    run(kernels, pool, {Layout::f32, 0, 0, n, k, bytes, nullptr, nullptr, nullptr}, rows, nudge, digest);
    run(kernels, pool, {Layout::bf16, 0, 0, n, k, narrow.data(), nullptr, nullptr, nullptr}, rows, nudge, digest);
    run(kernels, pool, {Layout::f16, 0, 0, n, k, narrow.data(), nullptr, nullptr, nullptr}, rows, nudge, digest);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bool broken = argc > 1 && std::strcmp(argv[1], "--break") == 0;
  penstock::Pool pool(2);
  uint64_t first = 0;
  int ran = 0, differing = 0;
  for (const Kernels* const* tier = penstock::compiled_tiers(); *tier; ++tier) {
    if (!penstock::tier_runs(**tier)) continue;
    Digest digest;
    const float nudge = broken && ran ? 0.5f : 0.0f;
    run_codes(**tier, pool, nudge, digest);
    run_floats(**tier, pool, nudge, digest);
    std::printf("%s %016llx\n", (*tier)->name, static_cast<unsigned long long>(digest.value));
    if (ran++ == 0) first = digest.value;
    else if (digest.value != first) ++differing;
  }
  return ran > 1 && differing == 0 ? 0 : 1;
}
