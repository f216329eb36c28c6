// Repacks stored GGUF blocks into group-code tiles on all threads. Knows nothing about files. Source of the block formats: GGUF
// (ggml's block_q8_0, block_q4_0, block_q4_K, block_q6_K).
// Invariant: bytes equal to those of penstock/formats/packed.py; every byte of the outputs that belongs to a tile is written.
#include "pack.h"

#include <cstddef>
#include <cstring>

namespace penstock {
namespace {

constexpr int kLanes = 32;
constexpr int kSpan = 256;  // inputs unpacked at a time

struct Form {
  int block, bytes, bits;
};

Form form_of(Stored stored) {
  switch (stored) {
    case Stored::q8_0:
      return {32, 34, 8};
    case Stored::q4_0:
      return {32, 18, 4};
    case Stored::q4_k:
      return {256, 144, 4};
    case Stored::q6_k:
      return {256, 210, 6};
  }
  return {32, 34, 8};
}

// One channel of one tile: unpacks stored blocks into codes and puts scales where they belong.
struct Lane {
  const PackJob& job;
  int64_t tile;
  int lane;

  void put(uint8_t* array, int64_t groups, int64_t group, const void* value, size_t size) const {
    std::memcpy(array + ((tile * groups + group) * kLanes + lane) * static_cast<int64_t>(size), value, size);
  }

  void q8_0(const uint8_t* block, int64_t k, uint8_t* codes) const {
    put(job.scales, job.k / 32, k / 32, block, 2);
    for (int i = 0; i < 32; ++i) codes[i] = block[2 + i] ^ 128;
  }

  void q4_0(const uint8_t* block, int64_t k, uint8_t* codes) const {
    put(job.scales, job.k / 32, k / 32, block, 2);
    for (int i = 0; i < 16; ++i) {
      codes[i] = block[2 + i] & 15;
      codes[16 + i] = block[2 + i] >> 4;
    }
  }

  void q4_k(const uint8_t* block, int64_t k, uint8_t* codes) const {
    const int64_t at = ((tile * (job.k / 256) + k / 256) * 2 * kLanes + lane) * 2;
    std::memcpy(job.scales + at, block, 2);
    std::memcpy(job.scales + at + 2 * kLanes, block + 2, 2);
    const uint8_t* packed = block + 4;
    for (int j = 0; j < 8; ++j) {
      const uint8_t scale = j < 4 ? packed[j] & 63 : (packed[j + 4] & 15) | ((packed[j - 4] >> 6) << 4);
      const uint8_t min = j < 4 ? packed[j + 4] & 63 : (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4);
      put(job.subscales, job.k / 32, k / 32 + j, &scale, 1);
      put(job.mins, job.k / 32, k / 32 + j, &min, 1);
    }
    for (int part = 0; part < 4; ++part)
      for (int i = 0; i < 32; ++i) {
        const uint8_t both = block[16 + 32 * part + i];
        codes[64 * part + i] = both & 15;
        codes[64 * part + 32 + i] = both >> 4;
      }
  }

  void q6_k(const uint8_t* block, int64_t k, uint8_t* codes) const {
    put(job.scales, job.k / 256, k / 256, block + 208, 2);
    for (int j = 0; j < 16; ++j) put(job.subscales, job.k / 16, k / 16 + j, block + 192 + j, 1);
    for (int half = 0; half < 2; ++half) {
      const uint8_t *low = block + 64 * half, *top = block + 128 + 32 * half;
      uint8_t* out = codes + 128 * half;
      for (int i = 0; i < 32; ++i) {
        out[i] = static_cast<uint8_t>((low[i] & 15) | ((top[i] & 3) << 4));
        out[i + 32] = static_cast<uint8_t>((low[i + 32] & 15) | (((top[i] >> 2) & 3) << 4));
        out[i + 64] = static_cast<uint8_t>((low[i] >> 4) | (((top[i] >> 4) & 3) << 4));
        out[i + 96] = static_cast<uint8_t>((low[i + 32] >> 4) | ((top[i] >> 6) << 4));
      }
    }
  }

  void read(const uint8_t* block, int64_t k, uint8_t* codes) const {
    switch (job.stored) {
      case Stored::q8_0:
        return q8_0(block, k, codes);
      case Stored::q4_0:
        return q4_0(block, k, codes);
      case Stored::q4_k:
        return q4_k(block, k, codes);
      case Stored::q6_k:
        return q6_k(block, k, codes);
    }
  }

  // A channel that only fills the tile: zero scales under zero codes.
  void blank(int64_t k, int64_t count) const {
    const bool two = job.subscales != nullptr;
    const int64_t group = job.stored == Stored::q6_k ? 16 : 32, zero = 0;
    for (int64_t i = k; i < k + count; i += group) {
      if (two) put(job.subscales, job.k / group, i / group, &zero, 1);
      else put(job.scales, job.k / 32, i / 32, &zero, 2);
      if (job.mins) put(job.mins, job.k / group, i / group, &zero, 1);
    }
    if (!two) return;
    const int64_t wide = job.mins ? 2 : 1, at = ((tile * (job.k / 256) + k / 256) * wide * kLanes + lane) * 2;
    for (int64_t w = 0; w < wide; ++w) std::memcpy(job.scales + at + w * 2 * kLanes, &zero, 2);
  }
};

// 32 channels × 32 inputs as sixteen vectors of 64 codes: vector 2c + h, byte 4 · channel + input.
void gather(const uint8_t* codes, int64_t input, uint8_t* vectors) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const uint8_t* row = codes + lane * kSpan + input;
    uint8_t* out = vectors + 64 * (lane / 16) + 4 * (lane % 16);
    for (int chunk = 0; chunk < 8; ++chunk) std::memcpy(out + 128 * chunk, row + 4 * chunk, 4);
  }
}

template <int Width>
void plane(const uint8_t* vectors, int shift, uint8_t* out) {
  constexpr int per = 8 / Width;
  constexpr unsigned mask = (1u << Width) - 1;
  for (int v = 0; v < 16 / per; ++v)
    for (int i = 0; i < 64; ++i) {
      unsigned byte = 0;
      for (int j = 0; j < per; ++j)
        byte |= ((static_cast<unsigned>(vectors[64 * (v * per + j) + i]) >> shift) & mask) << (Width * j);
      out[64 * v + i] = static_cast<uint8_t>(byte);
    }
}

void write_block(int bits, const uint8_t* vectors, uint8_t* out) {
  if (bits == 8) {
    std::memcpy(out, vectors, 1024);
    return;
  }
  plane<4>(vectors, 0, out);
  if (bits == 6) plane<2>(vectors, 4, out + 512);
}

void pack_tile(const PackJob& job, int64_t tile) {
  const Form form = form_of(job.stored);
  const int64_t row_bytes = stored_row_bytes(job.stored, job.k);
  alignas(64) uint8_t codes[kLanes * kSpan];
  alignas(64) uint8_t vectors[1024];
  for (int64_t k = 0; k < job.k; k += kSpan) {
    const int64_t count = job.k - k < kSpan ? job.k - k : kSpan;
    for (int l = 0; l < kLanes; ++l) {
      const Lane lane{job, tile, l};
      const int64_t channel = tile * kLanes + l;
      if (channel >= job.n) {
        std::memset(codes + l * kSpan, 0, kSpan);
        lane.blank(k, count);
        continue;
      }
      const uint8_t* row = job.data + (job.rows ? job.rows[channel] : channel) * row_bytes;
      for (int64_t i = 0; i < count; i += form.block)
        lane.read(row + (k + i) / form.block * form.bytes, k + i, codes + l * kSpan + i);
    }
    for (int64_t i = 0; i < count; i += 32) {
      gather(codes, i, vectors);
      write_block(form.bits, vectors, job.codes + (tile * (job.k / 32) + (k + i) / 32) * form.bits * 128);
    }
  }
}

}  // namespace

int64_t stored_row_bytes(Stored stored, int64_t k) {
  const Form form = form_of(stored);
  return k / form.block * form.bytes;
}

void pack(Pool& pool, const PackJob& job) {
  pool.each((job.n + kLanes - 1) / kLanes, [&](int64_t tile, int) { pack_tile(job, tile); });
}

}  // namespace penstock
