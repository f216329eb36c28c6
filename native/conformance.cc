// A program that runs the kernels of every tier of this machine over made-up inputs and fails unless all give the same bits; for
// machines that are reached through an emulator only. Knows nothing about Python.
// Invariant: exits 0 only when more than one tier ran and all agree; with "--break" one input differs, and it must exit 1.
#include <cstdio>
#include <cstring>
#include <vector>

#include "kernels.h"
#include "pack.h"
#include "sampler.h"

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

// Every stored kind's codes, with codebooks of seven and of eight bits where codes have four.
void run_kinds(const Kernels& kernels, penstock::Pool& pool, float nudge, Digest& digest) {
  constexpr int64_t n = 70, k = 768;
  Chance chance{23};
  uint8_t low[16], high[16];
  for (int i = 0; i < 16; ++i) {
    low[i] = static_cast<uint8_t>(chance.next() & 127);
    high[i] = static_cast<uint8_t>(chance.next() | 128);
  }
  for (const char* name : {"Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q5_K", "IQ4_NL", "IQ4_XS", "MXFP4"}) {
    const penstock::StoredForm& form = *penstock::stored_form(name);
    Matrix w{Layout::codes, form.bits, form.group, n, k, nullptr, nullptr, nullptr, nullptr, form.super, 3, form.scale_form};
    const penstock::ArrayBytes size = penstock::array_bytes(w, form.minimum);
    std::vector<uint8_t> codes(static_cast<size_t>(size.codes)), sub(static_cast<size_t>(size.subscales)),
        mins(static_cast<size_t>(size.mins));
    fill(codes, chance);
    fill(sub, chance);
    fill(mins, chance);
    std::vector<uint8_t> scales = halves(size.scales / 2, chance);
    if (form.scale_form == penstock::ScaleForm::e8m0)
      for (uint8_t& e : scales) e = static_cast<uint8_t>(chance.next() % 3 ? 110 + chance.next() % 20 : chance.next() % 4);
    if (form.super == 0 && form.minimum) mins = halves(size.mins / 2, chance);
    w.codes = codes.data();
    w.scales = scales.data();
    w.subscales = sub.empty() ? nullptr : sub.data();
    w.mins = mins.empty() ? nullptr : mins.data();
    for (const uint8_t* book :
         {static_cast<const uint8_t*>(nullptr), static_cast<const uint8_t*>(low), static_cast<const uint8_t*>(high)}) {
      if (book && form.bits != 4) continue;
      w.codebook = book;
      for (int64_t rows : {1, 3, 9}) run(kernels, pool, w, rows, nudge, digest);
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

std::vector<float> reals(int64_t count, float scale, Chance& chance) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) v = scale * chance.real();
  return values;
}

void add(const std::vector<float>& values, Digest& digest) { digest.add(values.data(), values.size() * sizeof(float)); }

void run_ops(const Kernels& kernels, float nudge, Digest& digest) {
  Chance chance{11};
  for (int64_t n : {2, 16, 31, 100, 4114}) {
    std::vector<float> x = reals(n, 5.0f, chance), y = reals(n, 5.0f, chance), out(x.size());
    x[0] += nudge;
    kernels.rms_norm(x.data(), y.data(), 1e-5f, out.data(), n);
    add(out, digest);
    for (int32_t activation : {0, 1, 2, 3}) {
      kernels.gated(x.data(), y.data(), out.data(), n, activation, activation == 1 ? 2.0f : 0.0f);
      add(out, digest);
    }
    const std::vector<float> cosines = reals(n / 2, 1.0f, chance), sines = reals(n / 2, 1.0f, chance);
    for (int interleaved : {0, 1}) {
      out = x;
      kernels.rotate(out.data(), cosines.data(), sines.data(), n / 2, interleaved);
      add(out, digest);
    }
    kernels.add_scaled(out.data(), y.data(), 0.7f, n);
    kernels.cap_logits(out.data(), n, 0.5f, 3.0f);
    add(out, digest);
    const penstock::LogitFacts facts = kernels.scan_logits(x.data(), n);
    digest.add(&facts.maximum, sizeof facts.maximum);
    digest.add(&facts.argmax, sizeof facts.argmax);
    const double total = kernels.sum_exp(x.data(), n, facts.maximum, 1.5f);
    digest.add(&total, sizeof total);
    kernels.exp_scaled(x.data(), n, facts.maximum, 1.5f, out.data());
    add(out, digest);
  }
}

void run_attention(const Kernels& kernels, float nudge, Digest& digest) {
  constexpr int64_t heads = 2, group = 3, dim = 40, page_tokens = 32, tokens = 300, count = 5;
  const int32_t table[] = {4, 9, 1, 0, 7, 3, 2, 8, 6, 5};
  Chance chance{13};
  const std::vector<float> k = reals(tokens * heads * dim, 1.0f, chance), v = reals(tokens * heads * dim, 1.0f, chance),
                           sinks = reals(heads * group, 2.0f, chance);
  std::vector<float> q = reals(count * heads * group * dim, 4.0f, chance), out(q.size());
  q[0] += nudge;
  for (const auto type : {penstock::KvType::f32, penstock::KvType::bf16, penstock::KvType::int8}) {
    penstock::KvLayer kv{nullptr, type, heads, dim, 48, page_tokens};
    std::vector<uint8_t> memory(static_cast<size_t>(10 * kv.page_bytes()), 0xff);
    kv.base = memory.data();
    for (int64_t t = 0; t < tokens; ++t) store_kv(kv, table, t, k.data() + t * heads * dim, v.data() + t * heads * dim);
    std::vector<float> scratch(static_cast<size_t>(penstock::attend_scratch(count * group, kv.padded)));
    for (int64_t variant = 0; variant < 4; ++variant) {
      for (int64_t h = 0; h < heads; ++h) {
        kernels.attend({kv, h, table, q.data() + h * group * dim, heads * group * dim, group, tokens - count, count,
                        variant % 2 ? 70 : 0, 0.2f, variant / 2 ? 3.0f : 0.0f, variant == 3 ? sinks.data() + h * group : nullptr,
                        out.data() + h * group * dim, heads * group * dim, scratch.data()});
      }
      add(out, digest);
    }
  }
}

void run_sampler(const Kernels& kernels, float nudge, Digest& digest) {
  constexpr int64_t vocab = 1000;
  Chance chance{17};
  std::vector<float> logits = reals(vocab, 6.0f, chance);
  logits[0] += nudge;
  penstock::Sampling all;
  all.temperature = 0.8;
  all.seed = 5;
  all.logprobs = 3;
  std::vector<penstock::Sampling> kinds(6, all);
  kinds[0].temperature = 0.0;
  kinds[1].top_p = 0.8;
  kinds[2].top_k = 20;
  kinds[3].min_p = 0.05;
  kinds[4].typical_p = 0.7;
  kinds[5].repetition = 1.3f;
  std::vector<float> maxima(static_cast<size_t>(penstock::outline_count(vocab)));
  kernels.outline(logits.data(), vocab, 1, vocab, maxima.data(), penstock::outline_count(vocab));
  add(maxima, digest);
  std::vector<uint8_t> mask((vocab + 7) / 8);
  fill(mask, chance);
  penstock::SampleScratch scratch;
  for (const penstock::Sampling& sampling : kinds) {
    penstock::History history;
    history.reset({1, 2, 3}, 2);
    for (int64_t position = 0; position < 40; ++position) {
      const penstock::LogitView view{logits.data(), maxima.data(), vocab};
      const penstock::Sampled sampled =
          penstock::sample_token(kernels, {view, position, position % 2 ? mask.data() : nullptr}, sampling, history, scratch);
      digest.add(&sampled.token, sizeof sampled.token);
      digest.add(&sampled.logprob.logprob, sizeof sampled.logprob.logprob);
    }
  }
}

// One digest a kind of work.
void run_all(const Kernels& kernels, penstock::Pool& pool, float nudge, uint64_t (&found)[5]) {
  Digest digests[5];
  run_codes(kernels, pool, nudge, digests[0]);
  run_kinds(kernels, pool, nudge, digests[0]);
  run_floats(kernels, pool, nudge, digests[1]);
  run_ops(kernels, nudge, digests[2]);
  run_attention(kernels, nudge, digests[3]);
  run_sampler(kernels, nudge, digests[4]);
  for (int i = 0; i < 5; ++i) found[i] = digests[i].value;
}

}  // namespace

int main(int argc, char** argv) {
  const bool broken = argc > 1 && std::strcmp(argv[1], "--break") == 0;
  penstock::Pool pool(2);
  uint64_t first[5] = {};
  int ran = 0, differing = 0;
  for (const Kernels* const* tier = penstock::compiled_tiers(); *tier; ++tier) {
    if (!penstock::tier_runs(**tier)) continue;
    uint64_t found[5];
    run_all(**tier, pool, broken && ran ? 0.5f : 0.0f, found);
    std::printf("%s", (*tier)->name);
    for (const uint64_t value : found) std::printf(" %016llx", static_cast<unsigned long long>(value));
    std::printf("\n");
    if (ran++ == 0) std::memcpy(first, found, sizeof first);
    else if (std::memcmp(first, found, sizeof first) != 0) ++differing;
  }
  return ran > 1 && differing == 0 ? 0 : 1;
}
