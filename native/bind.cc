// The Python module penstock._native. Checks every argument, keeps arrays alive, releases the GIL; computes nothing itself.
// Invariant: past this file no shape, size or alignment is wrong.
#include "bind.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstdlib>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "decoder.h"
#include "pack.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace penstock {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw nb::value_error(what.c_str()); }

void need(bool condition, const std::string& what) {
  if (!condition) refuse(what);
}

std::vector<std::string> runnable_tiers() {
  std::vector<std::string> names;
  for (const Kernels* const* tier = compiled_tiers(); *tier; ++tier)
    if (tier_runs(**tier)) names.emplace_back((*tier)->name);
  return names;
}

TierHandle kernels(const std::optional<std::string>& name) {
  const char* environment = std::getenv("PENSTOCK_ISA");
  const std::string wanted = name ? *name : environment ? environment : "";
  const Kernels* tier = choose_tier(wanted.c_str());
  if (tier) return {tier};
  std::string possible;
  for (const std::string& each : runnable_tiers()) possible += (possible.empty() ? "" : ", ") + each;
  refuse("instruction-set tier '" + wanted.substr(0, 64) + "' is unknown or cannot run on this machine. hint: one of " +
         possible);
}

int64_t size_of(const std::optional<Bytes>& array) { return array ? static_cast<int64_t>(array->shape(0)) : 0; }

void check_bytes(const char* name, int64_t have, int64_t want) {
  need(have == want,
       std::string(name) + " has " + std::to_string(have) + " bytes; this layout and shape need " + std::to_string(want));
}

void check_float(const MatrixHandle& h, int64_t count) {
  const int64_t item = h.matrix.layout == Layout::f32 ? 4 : 2;
  check_bytes("codes", size_of(h.codes), count * item);
  need(!h.scales && !h.subscales && !h.mins && !h.codebook, "a float layout has no scales, subscales, mins or codebook");
  need(reinterpret_cast<uintptr_t>(h.matrix.codes) % static_cast<uintptr_t>(item) == 0,
       "codes are not aligned to their element size");
}

void check_scale_form(const MatrixHandle& h) {
  const Matrix& w = h.matrix;
  switch (w.scale_form) {
    case ScaleForm::half:
      return;
    case ScaleForm::e8m0:
      return need(!w.super && !h.mins, "exponents are scales of one level without mins");
    case ScaleForm::nibbles:
      return need(w.super && !h.mins, "nibbles are subscales with their minima; they need super > 0 and no mins");
    case ScaleForm::six_bits:
      return need(w.super && !h.mins && w.k / w.group % 4 == 0,
                  "subscales of six bits need super > 0, no mins and a multiple of four groups");
  }
  refuse("scale_form " + std::to_string(static_cast<int>(w.scale_form)) + " is unknown");
}

void check_codes(const MatrixHandle& h) {
  const Matrix& w = h.matrix;
  need(w.bits >= 2 && w.bits <= 8, "bits is " + std::to_string(w.bits) + "; it must be 2 to 8");
  need(w.k % 32 == 0, "k is " + std::to_string(w.k) + "; group codes need a multiple of 32");
  const bool whole = w.group == w.k, power = w.group == 16 || w.group == 32 || w.group == 64 || w.group == 128 || w.group == 256;
  need((whole || power) && w.group > 0 && w.k % w.group == 0,
       "group is " + std::to_string(w.group) + "; it must be 16, 32, 64, 128, 256 or k, and divide k");
  need(w.zero >= 0 && w.zero <= 255, "zero is " + std::to_string(w.zero) + "; it must be 0 to 255");
  need(w.super == 0 || (w.super > 0 && w.super % w.group == 0 && w.k % w.super == 0),
       "super must be 0 or a multiple of group that divides k");
  need(!h.codebook || (w.bits == 4 && size_of(h.codebook) == 16), "a codebook has 16 bytes and needs bits = 4");
  check_scale_form(h);
  const ArrayBytes want = array_bytes(w, w.has_minimum());
  check_bytes("codes", size_of(h.codes), want.codes);
  check_bytes("scales", size_of(h.scales), want.scales);
  need(w.super || !h.subscales, "subscales need super > 0");
  check_bytes("subscales", size_of(h.subscales), want.subscales);
  check_bytes("mins", size_of(h.mins), want.mins);
  if (w.scale_form == ScaleForm::e8m0) return;
  for (const uint8_t* p : {w.scales, w.super ? nullptr : w.mins})
    need(reinterpret_cast<uintptr_t>(p) % 2 == 0, "scales are not aligned to 2 bytes");
}

const uint8_t* data_of(const std::optional<Bytes>& array) { return array ? array->data() : nullptr; }

void check_matrix(const MatrixHandle& h) {
  const Matrix& w = h.matrix;
  constexpr int64_t most = int64_t{1} << 31;
  need(w.n > 0 && w.n < most && w.k > 0 && w.k < most, "n and k must be 1 to 2^31 - 1");
  switch (w.layout) {
    case Layout::f32:
    case Layout::bf16:
    case Layout::f16:
      return check_float(h, w.n * w.k);
    case Layout::codes:
      return check_codes(h);
  }
  refuse("layout " + std::to_string(static_cast<int>(w.layout)) + " is unknown");
}

void init_matrix(MatrixHandle* self, int layout, int64_t n, int64_t k, Bytes codes, std::optional<Bytes> scales,
                 std::optional<Bytes> subscales, std::optional<Bytes> mins, int bits, int group, int super, int zero,
                 int scale_form, std::optional<Bytes> codebook) {
  MatrixHandle h;
  h.codes = std::move(codes);
  h.scales = std::move(scales);
  h.subscales = std::move(subscales);
  h.mins = std::move(mins);
  h.codebook = std::move(codebook);
  h.matrix = {static_cast<Layout>(layout),
              bits,
              group,
              n,
              k,
              data_of(h.codes),
              data_of(h.scales),
              data_of(h.subscales),
              data_of(h.mins),
              super,
              zero,
              static_cast<ScaleForm>(scale_form),
              data_of(h.codebook)};
  check_matrix(h);
  new (self) MatrixHandle(std::move(h));
}

using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using RowsOut = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void run_linear(Pool& pool, const TierHandle& tier, const MatrixHandle& w, const Rows& x, const std::optional<Vector>& bias,
                RowsOut& y) {
  const int64_t rows = static_cast<int64_t>(x.shape(0)), n = w.matrix.n, k = w.matrix.k;
  need(static_cast<int64_t>(x.shape(1)) == k,
       "x has " + std::to_string(x.shape(1)) + " columns; the matrix has k = " + std::to_string(k));
  need(static_cast<int64_t>(y.shape(0)) == rows && static_cast<int64_t>(y.shape(1)) == n, "y must be [rows of x, n]");
  need(!bias || static_cast<int64_t>(bias->shape(0)) == n, "bias must have n elements");
  const nb::gil_scoped_release release;
  Activations activations;
  activations.reset(x.data(), k, rows, k);
  linear(pool, *tier.kernels, w.matrix, activations, bias ? bias->data() : nullptr, y.data(), n);
}

using BytesOut = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using RowIndex = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

uint8_t* room_for(const char* name, const std::optional<BytesOut>& array, int64_t want) {
  check_bytes(name, array ? static_cast<int64_t>(array->shape(0)) : 0, want);
  return array ? array->data() : nullptr;
}

const StoredForm& form_of(const std::string& kind) {
  const StoredForm* form = stored_form(kind.c_str());
  need(form != nullptr, "storage kind '" + kind.substr(0, 64) + "' has no group codes");
  return *form;
}

void check_rows(const RowIndex& rows, int64_t stored) {
  for (size_t i = 0; i < rows.shape(0); ++i)
    need(rows.data()[i] >= 0 && rows.data()[i] < stored,
         "row " + std::to_string(rows.data()[i]) + " is not among the " + std::to_string(stored) + " stored ones");
}

void run_pack(Pool& pool, const std::string& kind, const Bytes& data, int64_t n, int64_t k, const std::optional<RowIndex>& rows,
              BytesOut& codes, const std::optional<BytesOut>& scales, const std::optional<BytesOut>& subscales,
              const std::optional<BytesOut>& mins) {
  const StoredForm& form = form_of(kind);
  constexpr int64_t most = int64_t{1} << 31;
  need(n > 0 && n < most && k > 0 && k < most && k % form.block == 0,
       "n and k must be 1 to 2^31 - 1, k a multiple of " + std::to_string(form.block));
  need(!rows || static_cast<int64_t>(rows->shape(0)) == n, "rows must have n elements");
  const int64_t row_bytes = k / form.block * form.bytes, have = static_cast<int64_t>(data.shape(0));
  need(have % row_bytes == 0 && have > 0, "data is not a whole number of rows");
  if (rows) check_rows(*rows, have / row_bytes);
  else check_bytes("data", have, n * row_bytes);
  const Matrix shape{Layout::codes, form.bits, form.group, n,          k, nullptr,
                     nullptr,       nullptr,   nullptr,    form.super, 0, form.scale_form};
  const ArrayBytes want = array_bytes(shape, form.minimum);
  const PackJob job{&form,
                    data.data(),
                    n,
                    k,
                    rows ? rows->data() : nullptr,
                    room_for("codes", codes, want.codes),
                    room_for("scales", scales, want.scales),
                    room_for("subscales", subscales, want.subscales),
                    room_for("mins", mins, want.mins)};
  const nb::gil_scoped_release release;
  pack(pool, job);
}

void run_place(Pool& pool, const Bytes& source, BytesOut& target, int64_t tile_bytes) {
  const auto size = static_cast<int64_t>(source.shape(0));
  check_bytes("target", static_cast<int64_t>(target.shape(0)), size);
  need(tile_bytes > 0, "tile_bytes is " + std::to_string(tile_bytes) + "; it must be at least 1");
  const nb::gil_scoped_release release;
  place(pool, source.data(), target.data(), size, tile_bytes);
}

void bind_pack(nb::module_& m) {
  m.def("place", &run_place, "pool"_a, "source"_a.noconvert(), "target"_a.noconvert(), "tile_bytes"_a,
        "Copies source to target, every tile by a thread of the node that computes it.");
  m.def("pack", &run_pack, "pool"_a, "storage"_a, "data"_a.noconvert(), "n"_a, "k"_a, "rows"_a.noconvert().none(),
        "codes"_a.noconvert(), "scales"_a.noconvert().none(), "subscales"_a.noconvert().none(), "mins"_a.noconvert().none(),
        "Fills the arrays of an empty group-code matrix from stored blocks, rows of them in the order given.");
}

// One reading of `data` by every thread, its own contiguous part each.
double bench_bandwidth(Pool& pool, const TierHandle& tier, const Bytes& data, int streams, bool prefetch) {
  need(streams == 1 || streams == 2 || streams == 4 || streams == 8, "streams must be 1, 2, 4 or 8");
  const int64_t part = static_cast<int64_t>(data.shape(0)) / pool.threads() / 4096 * 4096;
  const nb::gil_scoped_release release;
  std::vector<float> found(static_cast<size_t>(pool.threads()));
  pool.each(pool.threads(), [&](int64_t i, int) {
    found[static_cast<size_t>(i)] = tier.kernels->bench_read(data.data() + i * part, part, streams, prefetch);
  });
  double total = 0;
  for (const float f : found) total += f;
  return total;
}

// Operations done by all threads together.
int64_t bench_peak(Pool& pool, const TierHandle& tier, const std::string& what, int64_t count) {
  need(what == "fma" || what == "dot", "what must be fma or dot");
  need(count > 0 && count <= int64_t{1} << 32, "count must be 1 to 2^32");
  const auto run = what == "fma" ? tier.kernels->bench_fma : tier.kernels->bench_dot;
  const nb::gil_scoped_release release;
  std::vector<int64_t> operations(static_cast<size_t>(pool.threads()));
  std::vector<float> found(operations.size());
  pool.each(pool.threads(),
            [&](int64_t i, int) { found[static_cast<size_t>(i)] = run(count, &operations[static_cast<size_t>(i)]); });
  return operations[0] * count * pool.threads();
}

void bind_bench(nb::module_& m) {
  m.def("bench_bandwidth", &bench_bandwidth, "pool"_a, "kernels"_a, "data"_a.noconvert(), "streams"_a, "prefetch"_a = false,
        "Reads all of data once, in so many streams a thread; returns a checksum.");
  m.def("bench_peak", &bench_peak, "pool"_a, "kernels"_a, "what"_a, "count"_a,
        "Runs count iterations a thread of \"fma\" or \"dot\"; returns the operations done.");
}

using NodeFacts = std::tuple<int, int, std::vector<int>>;  // number, threads, processors

std::vector<PoolNode> pool_nodes(const std::vector<NodeFacts>& nodes) {
  std::vector<PoolNode> all;
  int64_t threads = 0;
  for (const auto& [id, count, cpus] : nodes) {
    need(id >= 0 && id < 1024, "node " + std::to_string(id) + "; it must be 0 to 1023");
    need(count >= 1 && count <= 1024, "threads of a node are " + std::to_string(count) + "; they must be 1 to 1024");
    need(!cpus.empty(), "a node has no processors");
    threads += count;
    all.push_back({id, count, cpus});
  }
  need(threads >= 1 && threads <= 1024, "threads is " + std::to_string(threads) + "; it must be 1 to 1024");
  return all;
}

std::vector<int> shares_of(Pool& pool, int64_t count, bool own) {
  need(count >= 0 && count <= 1'000'000, "count is " + std::to_string(count) + "; it must be 0 to 1000000");
  std::vector<int> ran(static_cast<size_t>(count), -1);
  const nb::gil_scoped_release release;
  const auto note = [&](int64_t index, int thread) { ran[static_cast<size_t>(index)] = thread; };
  if (own) pool.each_own(count, note);
  else pool.each(count, note);
  return ran;
}

void bind_kernels(nb::module_& m) {
  auto table = nb::class_<TierHandle>(m, "Kernels").def_prop_ro("name", [](const TierHandle& t) { return t.kernels->name; });
  bind_ops(table);
  m.def("kernels", &kernels, "tier"_a = nb::none(),
        "Kernels of the named tier; of PENSTOCK_ISA, else of the highest that runs here.");
  m.def("tiers", &runnable_tiers, "Names of the tiers that run here, lowest first.");

  nb::class_<Pool>(m, "Pool")
      .def(
          "__init__",
          [](Pool* self, int threads) {
            need(threads >= 1 && threads <= 1024, "threads is " + std::to_string(threads) + "; it must be 1 to 1024");
            new (self) Pool(threads);
          },
          "threads"_a)
      .def(
          "__init__", [](Pool* self, const std::vector<NodeFacts>& nodes) { new (self) Pool(pool_nodes(nodes)); }, "nodes"_a)
      .def_prop_ro("threads", &Pool::threads)
      .def_prop_ro("nodes", &Pool::nodes)
      .def_prop_ro("refusals", &Pool::refusals)
      .def("shares", &shares_of, "count"_a, "own"_a = false,
           "The thread that ran each of `count` indices; own says without stealing between nodes.");
  m.def(
      "default_threads", [](const std::string& root) { return default_threads(root.c_str()); }, "root"_a = "/",
      "Physical cores this process may use: affinity and the cgroup's CPU limit count, the host's number does not.");

  nb::class_<MatrixHandle>(m, "Matrix")
      .def("__init__", &init_matrix, "layout"_a, "n"_a, "k"_a, "codes"_a.noconvert(), "scales"_a.noconvert() = nb::none(),
           "subscales"_a.noconvert() = nb::none(), "mins"_a.noconvert() = nb::none(), "bits"_a = 0, "group"_a = 0, "super"_a = 0,
           "zero"_a = 0, "scale_form"_a = 0, "codebook"_a.noconvert() = nb::none())
      .def_prop_ro("n", [](const MatrixHandle& h) { return h.matrix.n; })
      .def_prop_ro("k", [](const MatrixHandle& h) { return h.matrix.k; });
  m.def(
      "alive", [] { return std::make_tuple(Counted<Decoder>::alive(), Counted<Pool>::alive(), Counted<MatrixHandle>::alive()); },
      "Decoders, pools and matrices that exist.");
  m.def("linear", &run_linear, "pool"_a, "kernels"_a, "w"_a, "x"_a.noconvert(), "bias"_a.noconvert().none(), "y"_a.noconvert(),
        "y = x · Wᵀ + bias, every row's bits independent of the others.");
}

}  // namespace
}  // namespace penstock

NB_MODULE(_native, m) {
  m.doc() = "Native core of penstock.";
  // An engine that a program never closed is alive when the interpreter ends: no mistake of ours to print about.
  nb::set_leak_warnings(false);
  penstock::bind_kernels(m);
  penstock::bind_pack(m);
  penstock::bind_bench(m);
  penstock::bind_sampler(m);
  penstock::bind_decoder(m);
}
