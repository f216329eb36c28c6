// The table of functions that each instruction-set tier fills, and how one is chosen. Knows nothing about threads or models.
// Invariant: every tier gives the same bits for the same arguments; a tier only changes the time.
#pragma once
#include <cstdint>

#include "attention.h"
#include "linear.h"
#include "ops.h"

namespace penstock {

// Inputs of one matrix product made ready for group codes, a row after the other.
struct QuantizedRows {
  const int8_t* q;     // [rows, k]
  const float* scale;  // [rows, k / 32]
  const int32_t* sum;  // [rows, k / 16] sums of q
};

// Channels [32 · tile, 32 · tile + 32) of y for rows [0, rows).
struct LinearTile {
  const Matrix* w;
  int64_t tile;
  int64_t rows;
  const float* x;  // float layouts: [rows, k], row stride ldx
  int64_t ldx;
  QuantizedRows quantized;  // Layout::codes
  const float* bias;        // [n] or null
  float* y;                 // [rows, n], row stride ldy
  int64_t ldy;
};

// Add a field here, fill it in tiers/table.inc, write it once over simd.h in an .inc file.
struct Kernels {
  const char* name;

  // One row of k inputs (k a multiple of 32) to int8: a scale for each 32, round to nearest even, sums for each 16.
  void (*quantize_row)(const float* x, int64_t k, int8_t* q, float* scale, int32_t* sum);
  void (*linear_float_tile)(const LinearTile& job);
  void (*linear_codes_tile)(const LinearTile& job);

  // Row operations (ops.inc) and attention over pages (attention.inc).
  void (*rms_norm)(const float* x, const float* weight, float eps, float* out, int64_t n);
  void (*rotate)(float* x, const float* cosines, const float* sines, int64_t pairs, int interleaved);
  void (*gated)(const float* gate, const float* up, float* out, int64_t n, int32_t activation, float clamp);
  void (*add_scaled)(float* x, const float* y, float scale, int64_t n);
  void (*cap_logits)(float* x, int64_t n, float scale, float cap);
  LogitFacts (*scan_logits)(const float* x, int64_t n);
  double (*sum_exp)(const float* x, int64_t n, float maximum, float inverse);
  void (*exp_scaled)(const float* x, int64_t n, float maximum, float inverse, float* out);
  void (*attend)(const AttendArgs& args);

  // Sampling (sampler.inc): the greatest of each 32 logits of [rows, n], NaN where one is not finite; logits that a mask forbids made
  // -inf, with the greatest of each 32; the least noise of each of some blocks of 32 tokens.
  void (*outline)(const float* x, int64_t ldx, int64_t rows, int64_t n, float* maxima, int64_t ldm);
  void (*mask_logits)(const float* x, const uint8_t* mask, int64_t n, float* out, float* maxima);
  void (*least_noise)(uint64_t key, const int32_t* blocks, int64_t count, uint64_t* least);

  // Benchmarks of the machine: sums `bytes` read in `streams` (1, 2, 4 or 8) parallel streams, with software prefetch or without;
  // runs `count` dependent-free FMAs or integer dot products and returns their sum, with the number of operations of one iteration in
  // *operations.
  float (*bench_read)(const uint8_t* data, int64_t bytes, int streams, int prefetch);
  float (*bench_fma)(int64_t count, int64_t* operations);
  float (*bench_dot)(int64_t count, int64_t* operations);
};

// Tables of the tiers compiled into this library, lowest first; null-terminated.
const Kernels* const* compiled_tiers();

// Whether this machine and its operating system can run that tier.
bool tier_runs(const Kernels& tier);

// The highest tier that runs here, or the one named (null or "" for the highest); null when that name is unknown or does not run here.
const Kernels* choose_tier(const char* name);

}  // namespace penstock
