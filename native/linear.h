// y = x · Wᵀ for packed weights of every layout. Knows nothing about layers.
// Invariant: the bits of a row of y depend on that row of x, W and the tier alone: not on how many rows there are, nor on threads.
#pragma once
#include <cstdint>
#include <functional>

#include "pool.h"

namespace penstock {

struct Kernels;  // function table of one tier (kernels.h)

// How a matrix is laid out; numbers are shared with penstock/formats/packed.py.
enum class Layout : int32_t { f32 = 0, bf16 = 1, codes = 2, f16 = 3 };

// How scales and sub-scales are stored; numbers are shared with penstock/formats/packed.py.
enum class ScaleForm : int32_t { half = 0, e8m0 = 1, nibbles = 2, six_bits = 3 };

// A packed matrix, n outputs × k inputs; memory belongs to the caller (a numpy array or a map kept alive in bind.cc).
// For Layout::codes: `bits` 2..8 per weight in groups of `group` inputs, 32-lane tiles; see formats/packed.py for the bytes.
struct Matrix {
  Layout layout;
  int32_t bits;
  int32_t group;
  int64_t n, k;
  const uint8_t* codes;      // float layouts: the values
  const uint8_t* scales;     // first-level scales
  const uint8_t* subscales;  // integer sub-scales, or null
  const uint8_t* mins;       // minima or integer sub-minima, or null
  int32_t super = 0;         // inputs under one first-level scale when there are two levels (then subscales is not null), else 0
  int32_t zero = 0;          // code that stands for nought: weight = scale · (code - zero) - minimum
  ScaleForm scale_form = ScaleForm::half;
  const uint8_t* codebook = nullptr;  // [16] bytes that 4-bit codes stand for, or null

  // Whether a minimum is subtracted.
  bool has_minimum() const { return mins != nullptr || scale_form == ScaleForm::nibbles; }
};

struct LinearPart;

// Inputs made ready once and shared by every matrix that reads them: kept as f32, and quantized to int8 a group where a matrix wants codes.
class Activations {
 public:
  Activations();
  ~Activations();
  Activations(const Activations&) = delete;
  Activations& operator=(const Activations&) = delete;

  // x: [rows, k] f32, row stride ldx; kept by reference until the next call.
  void reset(const float* x, int64_t ldx, int64_t rows, int64_t k);
  // The same of rows that are not there yet: make(row) writes one before it is first read, on the thread that readies it.
  void reset(const float* x, int64_t ldx, int64_t rows, int64_t k, std::function<void(int64_t)> make);
  // Row i is row order[i] of the source: copied where it is needed, as floats or as the int8 that the source has once. Both are kept by
  // reference until the next call.
  void gather(Activations& source, const int32_t* order, int64_t rows);
  int64_t rows() const;

 private:
  friend void linear_parts(Pool&, const Kernels&, const LinearPart*, int64_t, Activations&);
  struct State;
  State* state_;
};

// Told by the computing thread of every block of outputs while it is warm, each once and final: rows [row, row + rows) of y, channels
// [channel, channel + channels); channel is a multiple of 32, and channels too but where they end with the matrix.
struct LinearSink {
  void (*take)(void* context, int64_t row, int64_t rows, int64_t channel, int64_t channels);
  void* context;
};

// One product of several over the same inputs: their rows [first, first + rows) through w.
struct LinearPart {
  const Matrix* w;
  const float* bias;  // [n] or null
  int64_t first, rows;
  float* y;  // [rows, n] f32, row stride ldy
  int64_t ldy;
  const LinearSink* sink = nullptr;  // its rows are y's
};

// All parts as one piece of work for the pool.
void linear_parts(Pool& pool, const Kernels& kernels, const LinearPart* parts, int64_t count, Activations& x);

// y: [rows, n] f32, row stride ldy; bias [n] f32 or null.
void linear(Pool& pool, const Kernels& kernels, const Matrix& w, Activations& x, const float* bias, float* y, int64_t ldy,
            const LinearSink* sink = nullptr);

}  // namespace penstock
