// Repacks stored GGUF blocks into group-code tiles on all threads. Knows nothing about files. Source of the block formats: GGUF (ggml's
// block_q8_0, block_q4_0, block_q4_K and so on).
// Invariant: bytes equal to those of penstock/formats/packed.py; every byte of the outputs that belongs to a tile is written.
#include "pack.h"

#include <cstddef>
#include <cstring>

namespace penstock {
namespace {

constexpr int kLanes = 32;
constexpr int kSpan = 256;  // inputs unpacked at a time

constexpr StoredForm kForms[] = {
    {Stored::q8_0, "Q8_0", 32, 34, 8, 32, 0, ScaleForm::half, false},
    {Stored::q4_0, "Q4_0", 32, 18, 4, 32, 0, ScaleForm::half, false},
    {Stored::q4_1, "Q4_1", 32, 20, 4, 32, 0, ScaleForm::half, true},
    {Stored::q5_0, "Q5_0", 32, 22, 5, 32, 0, ScaleForm::half, false},
    {Stored::q5_1, "Q5_1", 32, 24, 5, 32, 0, ScaleForm::half, true},
    {Stored::q2_k, "Q2_K", 256, 84, 2, 16, 256, ScaleForm::nibbles, true},
    {Stored::q3_k, "Q3_K", 256, 110, 3, 16, 256, ScaleForm::six_bits, false},
    {Stored::q4_k, "Q4_K", 256, 144, 4, 32, 256, ScaleForm::half, true},
    {Stored::q5_k, "Q5_K", 256, 176, 5, 32, 256, ScaleForm::half, true},
    {Stored::q6_k, "Q6_K", 256, 210, 6, 16, 256, ScaleForm::half, false},
    {Stored::iq4_nl, "IQ4_NL", 32, 18, 4, 32, 0, ScaleForm::half, false},
    {Stored::iq4_xs, "IQ4_XS", 256, 136, 4, 32, 256, ScaleForm::half, false},
    {Stored::mxfp4, "MXFP4", 32, 17, 4, 32, 0, ScaleForm::e8m0, false},
};

void nibbles(const uint8_t* packed, int half, uint8_t* codes) {
  for (int i = 0; i < half; ++i) {
    codes[i] = packed[i] & 15;
    codes[half + i] = packed[i] >> 4;
  }
}

// Adds bit i of 32 as bit 4 of code i.
void fifth_bits(const uint8_t* packed, uint8_t* codes) {
  for (int i = 0; i < 32; ++i) codes[i] |= static_cast<uint8_t>((packed[i / 8] >> (i % 8) & 1) << 4);
}

// Adds bit j of byte i as bit `shift` of code 32 · j + i.
void bit_columns(const uint8_t* packed, int shift, uint8_t* codes) {
  for (int j = 0; j < 8; ++j)
    for (int i = 0; i < 32; ++i) codes[32 * j + i] |= static_cast<uint8_t>((packed[i] >> j & 1) << shift);
}

// 256 codes of 2 bits: byte i of each 32 holds inputs i, i + 32, i + 64, i + 96.
void crumbs(const uint8_t* packed, uint8_t* codes) {
  for (int half = 0; half < 2; ++half)
    for (int j = 0; j < 4; ++j)
      for (int i = 0; i < 32; ++i) codes[128 * half + 32 * j + i] = packed[32 * half + i] >> (2 * j) & 3;
}

// One channel of one tile: unpacks stored blocks into codes and puts scales where they belong.
struct Lane {
  const PackJob& job;
  int64_t tile;
  int lane;

  void put(uint8_t* array, int64_t groups, int64_t group, const void* value, size_t size) const {
    std::memcpy(array + ((tile * groups + group) * kLanes + lane) * static_cast<int64_t>(size), value, size);
  }

  void put_byte(uint8_t* array, int64_t group, int value) const {
    array[(tile * (job.k / job.form->group) + group) * kLanes + lane] = static_cast<uint8_t>(value);
  }

  // The scale of 32 inputs, and the opposite of what is added to them.
  void scale(int64_t k, const uint8_t* scale, const uint8_t* offset = nullptr) const {
    put(job.scales, job.k / 32, k / 32, scale, 2);
    if (!offset) return;
    const uint8_t minimum[2] = {offset[0], static_cast<uint8_t>(offset[1] ^ 0x80)};
    put(job.mins, job.k / 32, k / 32, minimum, 2);
  }

  // Super-scale and, if any, super-minimum of 256 inputs.
  void top(int64_t k, const uint8_t* scale, const uint8_t* minimum = nullptr) const {
    const int64_t at = ((tile * (job.k / 256) + k / 256) * (minimum ? 2 : 1) * kLanes + lane) * 2;
    std::memcpy(job.scales + at, scale, 2);
    if (minimum) std::memcpy(job.scales + at + 2 * kLanes, minimum, 2);
  }

  void q8_0(const uint8_t* block, int64_t k, uint8_t* codes) const {
    scale(k, block);
    for (int i = 0; i < 32; ++i) codes[i] = block[2 + i] ^ 128;
  }

  void q4_0(const uint8_t* block, int64_t k, uint8_t* codes) const {
    scale(k, block);
    nibbles(block + 2, 16, codes);
  }

  void q4_1(const uint8_t* block, int64_t k, uint8_t* codes) const {
    scale(k, block, block + 2);
    nibbles(block + 4, 16, codes);
  }

  void q5_0(const uint8_t* block, int64_t k, uint8_t* codes) const {
    scale(k, block);
    nibbles(block + 6, 16, codes);
    fifth_bits(block + 2, codes);
  }

  void q5_1(const uint8_t* block, int64_t k, uint8_t* codes) const {
    scale(k, block, block + 2);
    nibbles(block + 8, 16, codes);
    fifth_bits(block + 4, codes);
  }

  void q2_k(const uint8_t* block, int64_t k, uint8_t* codes) const {
    top(k, block + 80, block + 82);
    for (int j = 0; j < 16; ++j) put_byte(job.subscales, k / 16 + j, block[j]);
    crumbs(block + 16, codes);
  }

  void q3_k(const uint8_t* block, int64_t k, uint8_t* codes) const {
    top(k, block + 108);
    const uint8_t *low = block + 96, *high = block + 104;
    uint8_t sixes[16];
    for (int j = 0; j < 16; ++j)
      sixes[j] = static_cast<uint8_t>((low[j % 8] >> (j / 8 * 4) & 15) | (high[j % 4] >> (j / 4 * 2) & 3) << 4);
    for (int four = 0; four < 4; ++four) {
      uint8_t* out = job.subscales + (tile * (job.k / 64) + k / 64 + four) * 3 * kLanes + lane;
      const uint8_t* six = sixes + 4 * four;
      for (int j = 0; j < 3; ++j) out[kLanes * j] = static_cast<uint8_t>(six[j] | (six[3] >> (2 * j) & 3) << 6);
    }
    crumbs(block + 32, codes);
    bit_columns(block, 2, codes);
  }

  // The head that Q4_K and Q5_K share.
  void pairs(const uint8_t* block, int64_t k) const {
    top(k, block, block + 2);
    const uint8_t* packed = block + 4;
    for (int j = 0; j < 8; ++j) {
      put_byte(job.subscales, k / 32 + j, j < 4 ? packed[j] & 63 : (packed[j + 4] & 15) | ((packed[j - 4] >> 6) << 4));
      put_byte(job.mins, k / 32 + j, j < 4 ? packed[j + 4] & 63 : (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4));
    }
  }

  void q4_k(const uint8_t* block, int64_t k, uint8_t* codes) const {
    pairs(block, k);
    for (int part = 0; part < 4; ++part) nibbles(block + 16 + 32 * part, 32, codes + 64 * part);
  }

  void q5_k(const uint8_t* block, int64_t k, uint8_t* codes) const {
    pairs(block, k);
    for (int part = 0; part < 4; ++part) nibbles(block + 48 + 32 * part, 32, codes + 64 * part);
    bit_columns(block + 16, 4, codes);
  }

  void q6_k(const uint8_t* block, int64_t k, uint8_t* codes) const {
    top(k, block + 208);
    for (int j = 0; j < 16; ++j) put_byte(job.subscales, k / 16 + j, block[192 + j]);
    for (int half = 0; half < 2; ++half) {
      const uint8_t *low = block + 64 * half, *high = block + 128 + 32 * half;
      uint8_t* out = codes + 128 * half;
      for (int i = 0; i < 32; ++i) {
        out[i] = static_cast<uint8_t>((low[i] & 15) | ((high[i] & 3) << 4));
        out[i + 32] = static_cast<uint8_t>((low[i + 32] & 15) | (((high[i] >> 2) & 3) << 4));
        out[i + 64] = static_cast<uint8_t>((low[i] >> 4) | (((high[i] >> 4) & 3) << 4));
        out[i + 96] = static_cast<uint8_t>((low[i + 32] >> 4) | ((high[i] >> 6) << 4));
      }
    }
  }

  void iq4_xs(const uint8_t* block, int64_t k, uint8_t* codes) const {
    top(k, block);
    for (int j = 0; j < 8; ++j) {
      const int high = block[2 + j / 4] >> (j % 4 * 2) & 3, low = block[4 + j / 2] >> (j % 2 * 4) & 15;
      put_byte(job.subscales, k / 32 + j, (low | high << 4) - 32);
      nibbles(block + 8 + 16 * j, 16, codes + 32 * j);
    }
  }

  void mxfp4(const uint8_t* block, int64_t k, uint8_t* codes) const {
    put_byte(job.scales, k / 32, block[0]);
    nibbles(block + 1, 16, codes);
  }

  void read(const uint8_t* block, int64_t k, uint8_t* codes) const {
    switch (job.form->stored) {
      case Stored::q8_0:
        return q8_0(block, k, codes);
      case Stored::q4_0:
      case Stored::iq4_nl:
        return q4_0(block, k, codes);
      case Stored::q4_1:
        return q4_1(block, k, codes);
      case Stored::q5_0:
        return q5_0(block, k, codes);
      case Stored::q5_1:
        return q5_1(block, k, codes);
      case Stored::q2_k:
        return q2_k(block, k, codes);
      case Stored::q3_k:
        return q3_k(block, k, codes);
      case Stored::q4_k:
        return q4_k(block, k, codes);
      case Stored::q5_k:
        return q5_k(block, k, codes);
      case Stored::q6_k:
        return q6_k(block, k, codes);
      case Stored::iq4_xs:
        return iq4_xs(block, k, codes);
      case Stored::mxfp4:
        return mxfp4(block, k, codes);
    }
  }
};

// The scales of channels that only fill the tile: the whole tile's are cleared before its channels write theirs.
void clear_scales(const PackJob& job, int64_t tile) {
  const Matrix one{Layout::codes, job.form->bits, job.form->group, kLanes,          job.k, nullptr,
                   nullptr,       nullptr,        nullptr,         job.form->super, 0,     job.form->scale_form};
  const ArrayBytes size = array_bytes(one, job.form->minimum);
  std::memset(job.scales + tile * size.scales, 0, static_cast<size_t>(size.scales));
  if (size.subscales) std::memset(job.subscales + tile * size.subscales, 0, static_cast<size_t>(size.subscales));
  if (size.mins) std::memset(job.mins + tile * size.mins, 0, static_cast<size_t>(size.mins));
}

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
  int shift = 0;
  if (bits & 4) {
    plane<4>(vectors, 0, out);
    shift = 4;
  }
  if (bits & 2) {
    plane<2>(vectors, shift, out + 128 * shift);
    shift += 2;
  }
  if (bits & 1) plane<1>(vectors, shift, out + 128 * shift);
}

void pack_tile(const PackJob& job, int64_t tile) {
  const StoredForm& form = *job.form;
  const int64_t row_bytes = job.k / form.block * form.bytes;
  alignas(64) uint8_t codes[kLanes * kSpan];
  alignas(64) uint8_t vectors[1024];
  if (job.n - tile * kLanes < kLanes) clear_scales(job, tile);
  for (int64_t k = 0; k < job.k; k += kSpan) {
    const int64_t count = job.k - k < kSpan ? job.k - k : kSpan;
    for (int l = 0; l < kLanes; ++l) {
      const int64_t channel = tile * kLanes + l;
      if (channel >= job.n) {
        std::memset(codes + l * kSpan, 0, kSpan);
        continue;
      }
      const Lane lane{job, tile, l};
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

const StoredForm* stored_form(const char* name) {
  for (const StoredForm& form : kForms)
    if (std::strcmp(form.name, name) == 0) return &form;
  return nullptr;
}

ArrayBytes array_bytes(const Matrix& w, bool minimum) {
  const int64_t lanes = (w.n + kLanes - 1) / kLanes * kLanes, groups = lanes * (w.k / w.group), codes = lanes * w.k / 8 * w.bits;
  if (w.super == 0) {
    const bool exponents = w.scale_form == ScaleForm::e8m0;
    return {codes, exponents ? groups : groups * 2, 0, minimum ? groups * 2 : 0};
  }
  const int64_t scales = lanes * (w.k / w.super) * (minimum ? 4 : 2);
  if (w.scale_form == ScaleForm::six_bits) return {codes, scales, groups / 4 * 3, 0};
  return {codes, scales, groups, minimum && w.scale_form == ScaleForm::half ? groups : 0};
}

void pack(Pool& pool, const PackJob& job) {
  pool.each_own((job.n + kLanes - 1) / kLanes, [&](int64_t tile, int) { pack_tile(job, tile); });
}

void place(Pool& pool, const uint8_t* source, uint8_t* target, int64_t bytes, int64_t tile_bytes) {
  pool.each_own((bytes + tile_bytes - 1) / tile_bytes, [&](int64_t tile, int) {
    const int64_t at = tile * tile_bytes, left = bytes - at;
    std::memcpy(target + at, source + at, static_cast<size_t>(left < tile_bytes ? left : tile_bytes));
  });
}

}  // namespace penstock
