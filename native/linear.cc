// Deals the tiles of a matrix product to the pool's threads and readies its inputs. Knows nothing about layers or layouts' bytes.
// Invariant: how the work is cut never changes a bit of it.
#include "linear.h"

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "kernels.h"

namespace penstock {

namespace {

template <class T>
void grow(std::vector<T>& v, int64_t size) {  // never shrunk: no clearing a step
  if (static_cast<int64_t>(v.size()) < size) v.resize(static_cast<size_t>(size));
}

// Values below which dealing rows out costs more than it gains.
constexpr int64_t kInlineQuantize = int64_t{1} << 13, kInlineCopy = int64_t{1} << 18;

template <class F>
void over_rows(Pool& pool, int64_t rows, bool deal, F&& body) {
  if (deal && rows >= 4) return pool.each(rows, [&](int64_t r, int) { body(r); });
  for (int64_t r = 0; r < rows; ++r) body(r);
}

}  // namespace

struct Activations::State {
  const float* x = nullptr;  // null where rows are another's and were not needed as floats yet
  int64_t ldx = 0, rows = 0, k = 0;
  State* origin = nullptr;
  const int32_t* order = nullptr;
  std::function<void(int64_t)> make;  // of rows not there yet, else empty
  bool quantized = false;
  std::vector<int8_t> q;
  std::vector<float> scale;
  std::vector<int32_t> sum;
  std::vector<float> floats;

  void quantize(Pool& pool, const Kernels& kernels) {
    if (quantized) return;
    if (origin != nullptr) origin->quantize(pool, kernels);
    grow(q, rows * k);
    grow(scale, rows * (k / 32));
    grow(sum, rows * (k / 16));
    const bool deal = rows * k >= (origin == nullptr ? kInlineQuantize : kInlineCopy);
    over_rows(pool, rows, deal, [&](int64_t r) {
      if (origin == nullptr) {
        if (make) make(r);
        kernels.quantize_row(x + r * ldx, k, q.data() + r * k, scale.data() + r * (k / 32), sum.data() + r * (k / 16));
      } else {
        const int64_t from = order[r];
        std::copy_n(origin->q.data() + from * k, k, q.data() + r * k);
        std::copy_n(origin->scale.data() + from * (k / 32), k / 32, scale.data() + r * (k / 32));
        std::copy_n(origin->sum.data() + from * (k / 16), k / 16, sum.data() + r * (k / 16));
      }
    });
    quantized = true;
    make = nullptr;
  }

  // Writes rows that are not there yet.
  void make_rows(Pool& pool) {
    if (!make) return;
    over_rows(pool, rows, rows * k >= kInlineQuantize, make);
    make = nullptr;
  }

  void gather_floats(Pool& pool) {
    if (origin == nullptr) return make_rows(pool);
    if (x != nullptr) return;
    origin->make_rows(pool);
    grow(floats, rows * k);
    over_rows(pool, rows, rows * k >= kInlineCopy,
              [&](int64_t r) { std::copy_n(origin->x + order[r] * origin->ldx, k, floats.data() + r * k); });
    x = floats.data();
    ldx = k;
  }

  LinearTile tile_of(const LinearPart& part, int64_t tile, int64_t first, int64_t count) const {
    const int64_t row = part.first + first;
    LinearTile job{part.w, tile, count, nullptr, 0, {}, part.bias, part.y + first * part.ldy, part.ldy};
    if (part.w->layout == Layout::codes) {
      job.quantized = {q.data() + row * k, scale.data() + row * (k / 32), sum.data() + row * (k / 16)};
    } else {
      job.x = x + row * ldx;
      job.ldx = ldx;
    }
    return job;
  }
};

Activations::Activations() : state_(new State) {}
Activations::~Activations() { delete state_; }

void Activations::reset(const float* x, int64_t ldx, int64_t rows, int64_t k) { reset(x, ldx, rows, k, nullptr); }

void Activations::reset(const float* x, int64_t ldx, int64_t rows, int64_t k, std::function<void(int64_t)> make) {
  state_->x = x;
  state_->ldx = ldx;
  state_->rows = rows;
  state_->k = k;
  state_->origin = nullptr;
  state_->quantized = false;
  state_->make = std::move(make);
}

int64_t Activations::rows() const { return state_->rows; }

void Activations::gather(Activations& source, const int32_t* order, int64_t rows) {
  reset(nullptr, 0, rows, source.state_->k);
  state_->origin = source.state_;
  state_->order = order;
}

namespace {

// Rows are cut only where tiles alone cannot keep the threads busy; a tile's row chunks are neighbours, so that its weights are warm.
constexpr int64_t kChunkRows = 96;

int64_t tiles_of(const LinearPart& part) { return part.rows > 0 ? (part.w->n + 31) / 32 : 0; }

// First piece of each part, node after node, and the number of all: a piece is one tile over one chunk of the part's rows. A node has
// the same tiles of a matrix in whatever company it is read, since their bytes lie there.
std::vector<int64_t> pieces_of(const Pool& pool, const LinearPart* parts, int64_t count, bool cut) {
  std::vector<int64_t> first{0};
  first.reserve(static_cast<size_t>(count * pool.nodes()) + 1);
  for (int node = 0; node < pool.nodes(); ++node) {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t chunks = cut ? (parts[i].rows + kChunkRows - 1) / kChunkRows : 1, tiles = tiles_of(parts[i]);
      first.push_back(first.back() + (pool.begin_of(tiles, node + 1) - pool.begin_of(tiles, node)) * chunks);
    }
  }
  return first;
}

// Where each node's pieces begin, and the number of all.
std::vector<int64_t> nodes_of(const std::vector<int64_t>& first, int64_t count) {
  std::vector<int64_t> begins;
  for (size_t at = 0; at < first.size(); at += static_cast<size_t>(count)) begins.push_back(first[at]);
  return begins;
}

}  // namespace

void linear_parts(Pool& pool, const Kernels& kernels, const LinearPart* parts, int64_t count, Activations& x) {
  Activations::State& in = *x.state_;
  int64_t tiles = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t own = tiles_of(parts[i]);
    if (own == 0) continue;
    tiles += own;
    if (parts[i].w->layout == Layout::codes) in.quantize(pool, kernels);
    else in.gather_floats(pool);
  }
  if (tiles == 0) return;
  const bool cut = tiles < 4 * static_cast<int64_t>(pool.threads());
  const std::vector<int64_t> first = pieces_of(pool, parts, count, cut);
  const bool several = pool.nodes() > 1;
  const auto run_piece = [&](int64_t index, int) {
    const auto after = std::upper_bound(first.begin(), first.end(), index);
    const auto at = static_cast<size_t>(after - first.begin()) - 1;
    const LinearPart& part = parts[several ? at % static_cast<size_t>(count) : at];
    const int64_t chunk_rows = cut ? kChunkRows : part.rows, chunks = (part.rows + chunk_rows - 1) / chunk_rows;
    const int64_t inside = index - first[at], row = inside % chunks * chunk_rows;
    const int64_t begin = several ? pool.begin_of(tiles_of(part), static_cast<int>(at / static_cast<size_t>(count))) : 0;
    const LinearTile job = in.tile_of(part, begin + inside / chunks, row, std::min(chunk_rows, part.rows - row));
    if (part.w->layout == Layout::codes) {
      kernels.linear_codes_tile(job);
    } else {
      kernels.linear_float_tile(job);
    }
    if (part.sink != nullptr) {
      const int64_t channel = 32 * job.tile;
      part.sink->take(part.sink->context, row, job.rows, channel, std::min<int64_t>(32, part.w->n - channel));
    }
  };
  if (several) pool.each(first.back(), run_piece, nodes_of(first, count).data());
  else pool.each(first.back(), run_piece);
}

void linear(Pool& pool, const Kernels& kernels, const Matrix& w, Activations& x, const float* bias, float* y, int64_t ldy,
            const LinearSink* sink) {
  const LinearPart all{&w, bias, 0, x.rows(), y, ldy, sink};
  linear_parts(pool, kernels, &all, 1, x);
}

}  // namespace penstock
