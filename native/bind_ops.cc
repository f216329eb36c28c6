// Single row operations and attention of one tier in Python, each over arrays of its own: how the tiers are compared with their oracles.
// Checks every shape; computes nothing itself. Invariant: a page handed to attention holds NaN wherever nothing was stored.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "attention.h"
#include "bind.h"
#include "ops.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace penstock {
namespace {

using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Heads = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Table = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using VectorOut = nb::ndarray<nb::numpy, float, nb::ndim<1>>;
using HeadsOut = nb::ndarray<nb::numpy, float, nb::ndim<3>>;

constexpr int64_t kMaxPages = 4096;
constexpr int64_t kMaxPageTokens = 4096;

void need(bool condition, const char* what) {
  if (!condition) throw nb::value_error(what);
}

template <class Array>
int64_t extent(const Array& array, size_t axis) {
  return static_cast<int64_t>(array.shape(axis));
}

// A new array that holds a copy of `count` floats, or zeros.
std::unique_ptr<float[]> copy_of(const float* source, size_t count) {
  auto data = std::make_unique<float[]>(std::max<size_t>(count, 1));
  if (source) std::copy(source, source + count, data.get());
  return data;
}

nb::capsule owner_of(float* data) {
  return nb::capsule(data, [](void* p) noexcept { delete[] static_cast<float*>(p); });
}

VectorOut give(std::unique_ptr<float[]> data, size_t count) {
  float* raw = data.release();
  return VectorOut(raw, {count}, owner_of(raw));
}

VectorOut rms_norm(const TierHandle& tier, const Vector& x, const Vector& weight, float eps) {
  need(x.shape(0) == weight.shape(0) && x.shape(0) > 0, "x and weight must have one length");
  auto out = copy_of(nullptr, x.shape(0));
  tier.kernels->rms_norm(x.data(), weight.data(), eps, out.get(), extent(x, 0));
  return give(std::move(out), x.shape(0));
}

VectorOut rotate(const TierHandle& tier, const Vector& x, const Vector& cosines, const Vector& sines, bool interleaved) {
  need(cosines.shape(0) == sines.shape(0) && 2 * cosines.shape(0) <= x.shape(0), "x must hold two values for each angle");
  auto out = copy_of(x.data(), x.shape(0));
  tier.kernels->rotate(out.get(), cosines.data(), sines.data(), extent(cosines, 0), interleaved);
  return give(std::move(out), x.shape(0));
}

VectorOut gated(const TierHandle& tier, const Vector& gate, const Vector& up, int32_t activation, float clamp) {
  need(gate.shape(0) == up.shape(0), "gate and up must have one length");
  need(activation >= 0 && activation <= 3, "activation must be 0 (silu), 1 (gelu, tanh form), 2 (gelu) or 3 (swiglu_oai)");
  auto out = copy_of(nullptr, gate.shape(0));
  tier.kernels->gated(gate.data(), up.data(), out.get(), extent(gate, 0), activation, clamp);
  return give(std::move(out), gate.shape(0));
}

VectorOut add_scaled(const TierHandle& tier, const Vector& x, const Vector& y, float scale) {
  need(x.shape(0) == y.shape(0), "x and y must have one length");
  auto out = copy_of(x.data(), x.shape(0));
  tier.kernels->add_scaled(out.get(), y.data(), scale, extent(x, 0));
  return give(std::move(out), x.shape(0));
}

VectorOut cap_logits(const TierHandle& tier, const Vector& x, float scale, float cap) {
  auto out = copy_of(x.data(), x.shape(0));
  tier.kernels->cap_logits(out.get(), extent(x, 0), scale, cap);
  return give(std::move(out), x.shape(0));
}

std::tuple<float, int64_t, bool> scan_logits(const TierHandle& tier, const Vector& x) {
  need(x.shape(0) > 0, "x must not be empty");
  const LogitFacts facts = tier.kernels->scan_logits(x.data(), extent(x, 0));
  return {facts.maximum, static_cast<int64_t>(facts.argmax), facts.finite != 0};
}

std::pair<double, VectorOut> exponentials(const TierHandle& tier, const Vector& x, float maximum, float inverse) {
  auto out = copy_of(nullptr, x.shape(0));
  tier.kernels->exp_scaled(x.data(), extent(x, 0), maximum, inverse, out.get());
  const double total = tier.kernels->sum_exp(x.data(), extent(x, 0), maximum, inverse);
  return {total, give(std::move(out), x.shape(0))};
}

// Pages of one layer with k and v stored by `table`; everything else is NaN.
struct Pages {
  std::unique_ptr<uint8_t, void (*)(void*)> memory{nullptr, &std::free};
  KvLayer kv{};

  void fill(const Heads& k, const Heads& v, const Table& table, int64_t page_tokens, KvType type) {
    const int64_t dim = extent(k, 2);
    kv = {nullptr, type, extent(k, 1), dim, (dim + kTile - 1) / kTile * kTile, page_tokens};
    int64_t pages = 0;
    for (size_t i = 0; i < table.shape(0); ++i) {
      need(table.data()[i] >= 0 && table.data()[i] < kMaxPages, "a page of the table is out of range");
      pages = std::max<int64_t>(pages, table.data()[i] + 1);
    }
    const size_t bytes = static_cast<size_t>(pages * kv.page_bytes() + 63) / 64 * 64;
    memory.reset(static_cast<uint8_t*>(std::aligned_alloc(64, bytes)));
    if (!memory) throw std::bad_alloc();
    std::memset(memory.get(), 0xff, bytes);  // NaN in every type, as a scale too
    kv.base = memory.get();
    for (int64_t t = 0; t < extent(k, 0); ++t)
      store_kv(kv, table.data(), t, k.data() + t * kv.heads * dim, v.data() + t * kv.heads * dim);
  }
};

struct AttendShape {
  int64_t page_tokens, first_position, window;
  float scale, softcap;
  int32_t kv_type;
};

void check_attend(const Heads& q, const Heads& k, const Heads& v, const Table& table, const AttendShape& s) {
  for (size_t axis = 0; axis < 3; ++axis) need(k.shape(axis) == v.shape(axis), "k and v must have one shape");
  need(q.shape(0) > 0 && k.shape(0) > 0 && k.shape(1) > 0 && k.shape(2) > 0 && q.shape(1) > 0, "no axis may be empty");
  need(q.shape(2) == k.shape(2) && q.shape(1) % k.shape(1) == 0, "heads must be a multiple of kv heads, of one size");
  need(s.page_tokens > 0 && s.page_tokens <= kMaxPageTokens && s.page_tokens % kTile == 0,
       "page_tokens must be a multiple of 16");
  need(extent(table, 0) <= kMaxPages && extent(table, 0) * s.page_tokens >= extent(k, 0),
       "the table does not hold every position");
  need(s.first_position >= 0 && s.first_position <= extent(k, 0) - extent(q, 0), "a query lies behind the last key");
  need(s.window >= 0, "window must be 0 or more");
  need(s.kv_type >= 0 && s.kv_type <= 2, "kv_type must be 0 (f32), 1 (bf16) or 2 (int8)");
}

HeadsOut run_attend(const TierHandle& tier, const Heads& q, const Heads& k, const Heads& v, const Table& table,
                    const AttendShape& s, const std::optional<Vector>& sinks) {
  check_attend(q, k, v, table, s);
  need(!sinks || sinks->shape(0) == q.shape(1), "sinks must have one value a head");
  Pages pages;
  pages.fill(k, v, table, s.page_tokens, static_cast<KvType>(s.kv_type));
  const int64_t heads = extent(q, 1), dim = extent(q, 2), group = heads / pages.kv.heads;
  auto out = copy_of(nullptr, q.shape(0) * q.shape(1) * q.shape(2));
  std::vector<float> scratch(static_cast<size_t>(attend_scratch(extent(q, 0) * group, pages.kv.padded)));
  for (int64_t h = 0; h < pages.kv.heads; ++h) {
    const int64_t at = h * group * dim;
    tier.kernels->attend({pages.kv, h, table.data(), q.data() + at, heads * dim, group, s.first_position, extent(q, 0), s.window,
                          s.scale, s.softcap, sinks ? sinks->data() + h * group : nullptr, out.get() + at, heads * dim,
                          scratch.data()});
  }
  float* raw = out.release();
  return HeadsOut(raw, {q.shape(0), q.shape(1), q.shape(2)}, owner_of(raw));
}

}  // namespace

void bind_ops(nb::class_<TierHandle>& kernels) {
  kernels.def("rms_norm", &rms_norm, "x"_a.noconvert(), "weight"_a.noconvert(), "eps"_a)
      .def("rotate", &rotate, "x"_a.noconvert(), "cosines"_a.noconvert(), "sines"_a.noconvert(), "interleaved"_a,
           "x with its first pairs turned by the angles.")
      .def("gated", &gated, "gate"_a.noconvert(), "up"_a.noconvert(), "activation"_a, "clamp"_a = 0.0f)
      .def("add_scaled", &add_scaled, "x"_a.noconvert(), "y"_a.noconvert(), "scale"_a)
      .def("cap_logits", &cap_logits, "x"_a.noconvert(), "scale"_a, "cap"_a)
      .def("scan_logits", &scan_logits, "x"_a.noconvert(), "(maximum, its first index, whether all are finite).")
      .def("exponentials", &exponentials, "x"_a.noconvert(), "maximum"_a, "inverse"_a,
           "(sum, values) of exp((x - maximum) * inverse).")
      .def(
          "attend",
          [](const TierHandle& tier, const Heads& q, const Heads& k, const Heads& v, const Table& table, int64_t page_tokens,
             int64_t first_position, float scale, int32_t kv_type, int64_t window, float softcap,
             const std::optional<Vector>& sinks) {
            return run_attend(tier, q, k, v, table, {page_tokens, first_position, window, scale, softcap, kv_type}, sinks);
          },
          "q"_a.noconvert(), "k"_a.noconvert(), "v"_a.noconvert(), "table"_a.noconvert(), "page_tokens"_a, "first_position"_a,
          "scale"_a, "kv_type"_a = 0, "window"_a = 0, "softcap"_a = 0.0f, "sinks"_a.noconvert() = nb::none(),
          "Attention of successive queries over keys and values stored in pages by the table.");
}

}  // namespace penstock
