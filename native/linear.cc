// Deals the tiles of a matrix product to the pool's threads and readies its inputs. Knows nothing about layers or layouts' bytes.
// Invariant: how the work is cut never changes a bit of it.
#include "linear.h"

#include <cstddef>
#include <vector>

#include "kernels.h"

namespace penstock {

struct Activations::State {
  const float* x = nullptr;
  int64_t ldx = 0, rows = 0, k = 0;
  bool quantized = false;
  std::vector<int8_t> q;  // grown, never shrunk: no clearing a step
  std::vector<float> scale;
  std::vector<int32_t> sum;

  void quantize(Pool& pool, const Kernels& kernels) {
    if (quantized) return;
    const auto grow = [](auto& v, int64_t size) {
      if (static_cast<int64_t>(v.size()) < size) v.resize(static_cast<size_t>(size));
    };
    grow(q, rows * k);
    grow(scale, rows * (k / 32));
    grow(sum, rows * (k / 16));
    const auto row = [&](int64_t r) {
      kernels.quantize_row(x + r * ldx, k, q.data() + r * k, scale.data() + r * (k / 32), sum.data() + r * (k / 16));
    };
    if (rows < 4) {
      for (int64_t r = 0; r < rows; ++r) row(r);
    } else {
      pool.each(rows, [&](int64_t r, int) { row(r); });
    }
    quantized = true;
  }
};

Activations::Activations() : state_(new State) {}
Activations::~Activations() { delete state_; }

void Activations::reset(const float* x, int64_t ldx, int64_t rows, int64_t k) {
  state_->x = x;
  state_->ldx = ldx;
  state_->rows = rows;
  state_->k = k;
  state_->quantized = false;
}

void linear(Pool& pool, const Kernels& kernels, const Matrix& w, Activations& x, const float* bias, float* y, int64_t ldy) {
  Activations::State& in = *x.state_;
  if (in.rows == 0 || w.n == 0) return;
  const bool codes = w.layout == Layout::codes;
  if (codes) in.quantize(pool, kernels);
  const int64_t tiles = (w.n + 31) / 32;
  // Rows are cut only where tiles alone cannot keep the threads busy; a tile's row chunks are neighbours, so that its weights are warm.
  constexpr int64_t kChunkRows = 96;
  const bool cut = in.rows > kChunkRows && tiles < 4 * static_cast<int64_t>(pool.threads());
  const int64_t chunk_rows = cut ? kChunkRows : in.rows;
  const int64_t chunks = (in.rows + chunk_rows - 1) / chunk_rows;
  pool.each(tiles * chunks, [&](int64_t index, int) {
    const int64_t tile = index / chunks, row = index % chunks * chunk_rows;
    const int64_t rows = in.rows - row < chunk_rows ? in.rows - row : chunk_rows;
    LinearTile job{&w, tile, rows, in.x + row * in.ldx, in.ldx, {}, bias, y + row * ldy, ldy};
    if (codes) {
      job.quantized = {in.q.data() + row * in.k, in.scale.data() + row * (in.k / 32), in.sum.data() + row * (in.k / 16)};
      kernels.linear_codes_tile(job);
    } else {
      kernels.linear_float_tile(job);
    }
  });
}

}  // namespace penstock
