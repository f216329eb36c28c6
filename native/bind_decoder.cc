// The decoder in Python. Plans cross as the plain tuples that they are; results as tuples. No logic of its own.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "bind.h"
#include "decoder.h"
#include "kernels.h"

namespace nb = nanobind;

namespace penstock {
namespace {

using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Table = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

constexpr int64_t kMaxExperts = 1024;

// A model under construction: facts, and arrays kept alive as long as it.
struct ModelBuilder {
  Model model;
  std::vector<nb::object> alive;

  LayerWeights& weights(int64_t layer) {
    if (layer < 0 || layer >= static_cast<int64_t>(model.weights.size())) throw std::out_of_range("layer out of range");
    return model.weights[static_cast<size_t>(layer)];
  }

  Projection& projection(const std::string& place, int64_t layer) {
    if (place == "embed") return model.embed;
    if (place == "head") return model.head;
    LayerWeights& w = weights(layer);
    if (place.starts_with("experts.")) return expert(place, w);
    const std::pair<const char*, Projection*> names[] = {{"q", &w.q},
                                                         {"k", &w.k},
                                                         {"v", &w.v},
                                                         {"o", &w.o},
                                                         {"gate", &w.mlp.gate},
                                                         {"up", &w.mlp.up},
                                                         {"down", &w.mlp.down},
                                                         {"router", &w.router},
                                                         {"shared.gate", &w.shared.gate},
                                                         {"shared.up", &w.shared.up},
                                                         {"shared.down", &w.shared.down},
                                                         {"shared.router", &w.shared_router}};
    for (const auto& [name, found] : names) {
      if (place == name) return *found;
    }
    throw std::invalid_argument("unknown projection " + place);
  }

  // "experts.E.gate", "experts.E.up" or "experts.E.down".
  static Projection& expert(const std::string& place, LayerWeights& w) {
    const char* digits = place.c_str() + std::strlen("experts.");
    size_t index = 0;
    const auto [rest, error] = std::from_chars(digits, place.c_str() + place.size(), index);
    const std::string name = rest;
    if (error == std::errc() && index < w.experts.size()) {
      GatedMlp& mlp = w.experts[index];
      if (name == ".gate") return mlp.gate;
      if (name == ".up") return mlp.up;
      if (name == ".down") return mlp.down;
    }
    throw std::invalid_argument("unknown projection " + place);
  }

  const float*& vector(const std::string& place, int64_t layer) {
    if (place == "final_norm") return model.final_norm;
    const std::string suffix = ".bias";
    if (place.size() > suffix.size() && place.ends_with(suffix)) {
      return projection(place.substr(0, place.size() - suffix.size()), layer).bias;
    }
    LayerWeights& w = weights(layer);
    const std::pair<const char*, const float**> names[] = {{"attn_norm", &w.attn_norm},
                                                           {"mlp_norm", &w.mlp_norm},
                                                           {"attn_post_norm", &w.attn_post_norm},
                                                           {"mlp_post_norm", &w.mlp_post_norm},
                                                           {"q_norm", &w.q_norm},
                                                           {"k_norm", &w.k_norm},
                                                           {"sinks", &w.sinks}};
    for (const auto& [name, found] : names) {
      if (place == name) return *found;
    }
    throw std::invalid_argument("unknown vector " + place);
  }
};

void check_projection(const char* name, const Projection& p, int64_t n, int64_t k) {
  if (p.matrix.n != n || p.matrix.k != k || p.matrix.codes == nullptr) {
    throw std::invalid_argument(std::string(name) + ": the matrix is missing or has another shape than the layer");
  }
}

void check_mlp(const GatedMlp& mlp, int64_t width, int64_t hidden) {
  check_projection("gate", mlp.gate, width, hidden);
  check_projection("up", mlp.up, width, hidden);
  check_projection("down", mlp.down, hidden, width);
}

void check_mixture(const LayerFacts& l, const LayerWeights& w, int64_t hidden) {
  if (l.experts_per_token < 1 || l.experts_per_token > l.num_experts || l.shared_intermediate < 0) {
    throw std::invalid_argument("a layer's expert counts are impossible");
  }
  check_projection("router", w.router, l.num_experts, hidden);
  for (const GatedMlp& expert : w.experts) check_mlp(expert, l.intermediate, hidden);
  if (l.shared_intermediate > 0) check_mlp(w.shared, l.shared_intermediate, hidden);
  if (w.shared_router.matrix.n > 0) check_projection("shared.router", w.shared_router, 1, hidden);
}

// Every weight that the facts imply is there in its shape: after this, the forward pass reads nothing it should not.
void check_model(const Model& m) {
  const ModelFacts& f = m.facts;
  if (f.hidden < 1 || f.vocab < 1 || f.max_tokens < 1 || m.layers.empty()) throw std::invalid_argument("facts are missing");
  check_projection("embed", m.embed, f.vocab, f.hidden);
  check_projection("head", m.head, f.vocab, f.hidden);
  std::vector<bool> groups(m.layers.size());
  for (const LayerFacts& l : m.layers) {
    if (l.kv_group < 0 || static_cast<size_t>(l.kv_group) >= groups.size()) throw std::invalid_argument("KV group out of range");
    groups[static_cast<size_t>(l.kv_group)] = true;
  }
  if (std::find(std::find(groups.begin(), groups.end(), false), groups.end(), true) != groups.end()) {
    throw std::invalid_argument("a KV group has no layers");
  }
  if (m.final_norm == nullptr) throw std::invalid_argument("final_norm is missing");
  for (size_t i = 0; i < m.layers.size(); ++i) {
    const LayerFacts& l = m.layers[i];
    const LayerWeights& w = m.weights[i];
    if (l.num_kv_heads < 1 || l.head_dim < 1 || l.intermediate < 1 || l.num_heads < 1 || l.num_heads % l.num_kv_heads != 0) {
      throw std::invalid_argument("a layer's head counts are impossible");
    }
    if (l.rope >= static_cast<int32_t>(m.ropes.size()) || l.rope < -1) throw std::invalid_argument("rope table out of range");
    if (l.rope >= 0 && 2 * m.ropes[static_cast<size_t>(l.rope)].pairs > l.head_dim) {
      throw std::invalid_argument("more rotated dimensions than a head has");
    }
    check_projection("q", w.q, l.num_heads * l.head_dim, f.hidden);
    check_projection("k", w.k, l.num_kv_heads * l.head_dim, f.hidden);
    check_projection("v", w.v, l.num_kv_heads * l.head_dim, f.hidden);
    check_projection("o", w.o, f.hidden, l.num_heads * l.head_dim);
    if (l.num_experts > 0) check_mixture(l, w, f.hidden);
    else check_mlp(w.mlp, l.intermediate, f.hidden);
  }
}

// --- Plans in -----------------------------------------------------------------------------------------------------------------------

nb::handle item(nb::handle tuple, Py_ssize_t index) {
  if (!PyTuple_Check(tuple.ptr()) || index >= PyTuple_GET_SIZE(tuple.ptr())) throw nb::type_error("a plan holds tuples");
  return PyTuple_GET_ITEM(tuple.ptr(), index);
}

int64_t integer(nb::handle value) {
  const long long result = PyLong_AsLongLong(value.ptr());
  if (result == -1 && PyErr_Occurred() != nullptr) throw nb::python_error();
  return result;
}

int32_t small(nb::handle value) {
  const int64_t result = integer(value);
  if (result < INT32_MIN || result > INT32_MAX) throw nb::value_error("an integer of the plan is out of range");
  return static_cast<int32_t>(result);
}

void append(std::vector<int32_t>& out, nb::handle tuple) {
  if (!PyTuple_Check(tuple.ptr())) throw nb::type_error("a plan holds tuples");
  const Py_ssize_t count = PyTuple_GET_SIZE(tuple.ptr());
  for (Py_ssize_t i = 0; i < count; ++i) out.push_back(small(PyTuple_GET_ITEM(tuple.ptr(), i)));
}

// core.step.Row
StepRow read_row(nb::handle source, Step& step) {
  StepRow row;
  row.slot = small(item(source, 0));
  row.start = integer(item(source, 1));
  const nb::handle tokens = item(source, 2);
  row.first = static_cast<int64_t>(step.tokens.size());
  if (Py_TYPE(tokens.ptr()) == &PyTuple_Type) {
    append(step.tokens, tokens);
    for (size_t i = static_cast<size_t>(row.first); i < step.tokens.size(); ++i) {
      if (step.tokens[i] < 0) throw nb::value_error("token id out of range");
    }
  } else {  // FutureToken: its own slot's last sample
    if (small(item(tokens, 0)) != row.slot) throw nb::value_error("a future token of another slot");
    step.tokens.push_back(-1);
  }
  row.count = static_cast<int64_t>(step.tokens.size()) - row.first;
  row.first_span = static_cast<int64_t>(step.spans.size());
  const nb::handle groups = item(source, 3);
  if (!PyTuple_Check(groups.ptr())) throw nb::type_error("a plan holds tuples");
  row.num_spans = PyTuple_GET_SIZE(groups.ptr());
  for (Py_ssize_t g = 0; g < row.num_spans; ++g) {
    const auto first = static_cast<int64_t>(step.pages.size());
    append(step.pages, item(groups, g));
    step.spans.push_back({first, static_cast<int64_t>(step.pages.size()) - first});
  }
  row.num_drafts = integer(item(source, 4));
  const nb::handle output = item(source, 5);
  const int64_t kind = integer(item(output, 0));
  if (kind < 0 || kind > 2) throw nb::value_error("this backend has no output of that kind");
  row.output = static_cast<OutputKind>(kind);
  row.logprobs_first = integer(item(output, 1));
  row.logprobs_count = integer(item(output, 2));
  row.logprobs_top = integer(item(output, 3));
  row.sample = nb::cast<bool>(item(output, 4));
  return row;
}

std::unique_ptr<Step> read_step(int64_t number, nb::tuple released, nb::list opened, nb::tuple copies, nb::tuple rows) {
  auto step = std::make_unique<Step>();
  step->number = number;
  append(step->released, released);
  for (nb::handle source : opened) {  // (slot, tokens, num_prompt, Sampling)
    OpenedSlot slot;
    slot.slot = small(item(source, 0));
    append(slot.tokens, item(source, 1));
    slot.num_prompt = integer(item(source, 2));
    slot.sampling = nb::cast<Sampling&>(item(source, 3));
    step->opened.push_back(std::move(slot));
  }
  for (nb::handle source : copies)
    step->copies.push_back({small(item(source, 0)), small(item(source, 1)), small(item(source, 2))});  // core.step.PageCopy
  for (nb::handle source : rows) step->rows.push_back(read_row(source, *step));
  return step;
}

// --- Results out --------------------------------------------------------------------------------------------------------------------

nb::tuple to_tuple(const std::vector<int32_t>& values) {
  PyObject* tuple = PyTuple_New(static_cast<Py_ssize_t>(values.size()));
  if (tuple == nullptr) throw nb::python_error();
  for (size_t i = 0; i < values.size(); ++i) PyTuple_SET_ITEM(tuple, static_cast<Py_ssize_t>(i), PyLong_FromLong(values[i]));
  return nb::steal<nb::tuple>(tuple);
}

nb::list to_results(const std::vector<RowOutput>& rows) {
  nb::list out;
  for (const RowOutput& row : rows) {
    out.append(nb::make_tuple(to_tuple(row.tokens), static_cast<int32_t>(row.error), to_logprobs(row.logprobs),
                              to_logprobs(row.prompt_logprobs)));
  }
  return out;
}

std::vector<MaskRef> read_masks(nb::dict masks, int64_t vocab) {
  std::vector<MaskRef> out;
  for (auto [slot, bits] : masks) {
    const nb::bytes bytes = nb::cast<nb::bytes>(bits);
    if (static_cast<int64_t>(bytes.size()) != (vocab + 7) / 8)
      throw nb::value_error("a mask has another length than ceil(V / 8)");
    out.push_back({small(slot), reinterpret_cast<const uint8_t*>(bytes.c_str())});
  }
  return out;
}

// Copies a vector into a new numpy array of that shape.
nb::ndarray<nb::numpy, float, nb::ndim<2>> to_array(const std::vector<float>& values, size_t rows, size_t columns) {
  auto* data = new std::vector<float>(values);
  nb::capsule owner(data, [](void* p) noexcept { delete static_cast<std::vector<float>*>(p); });
  return nb::ndarray<nb::numpy, float, nb::ndim<2>>(data->data(), {rows, columns}, owner);
}

void bind_model(nb::module_& m) {
  nb::class_<LayerFacts>(m, "LayerFacts")
      .def(nb::init<>())
      .def_rw("num_heads", &LayerFacts::num_heads)
      .def_rw("num_kv_heads", &LayerFacts::num_kv_heads)
      .def_rw("head_dim", &LayerFacts::head_dim)
      .def_rw("intermediate", &LayerFacts::intermediate)
      .def_rw("window", &LayerFacts::window)
      .def_rw("rope", &LayerFacts::rope)
      .def_rw("kv_group", &LayerFacts::kv_group)
      .def_prop_rw(
          "activation", [](const LayerFacts& f) { return static_cast<int32_t>(f.activation); },
          [](LayerFacts& f, int32_t value) {
            if (value < 0 || value > 3) throw nb::value_error("unknown activation");
            f.activation = static_cast<Activation>(value);
          })
      .def_rw("scale", &LayerFacts::scale)
      .def_rw("softcap", &LayerFacts::softcap)
      .def_rw("clamp", &LayerFacts::clamp)
      .def_rw("qkv_clip", &LayerFacts::qkv_clip)
      .def_rw("qk_norm_all", &LayerFacts::qk_norm_all)
      .def_rw("num_experts", &LayerFacts::num_experts)
      .def_rw("experts_per_token", &LayerFacts::experts_per_token)
      .def_rw("shared_intermediate", &LayerFacts::shared_intermediate)
      .def_rw("norm_topk", &LayerFacts::norm_topk);
  nb::class_<ModelFacts>(m, "ModelFacts")
      .def(nb::init<>())
      .def_rw("hidden", &ModelFacts::hidden)
      .def_rw("vocab", &ModelFacts::vocab)
      .def_rw("max_tokens", &ModelFacts::max_tokens)
      .def_rw("norm_eps", &ModelFacts::norm_eps)
      .def_rw("embed_scale", &ModelFacts::embed_scale)
      .def_rw("residual_scale", &ModelFacts::residual_scale)
      .def_rw("logit_scale", &ModelFacts::logit_scale)
      .def_rw("logit_softcap", &ModelFacts::logit_softcap);
  nb::class_<ModelBuilder>(m, "ModelBuilder")
      .def(nb::init<>())
      .def(
          "set_facts", [](ModelBuilder& b, const ModelFacts& facts) { b.model.facts = facts; }, nb::arg("facts"))
      .def(
          "add_layer",
          [](ModelBuilder& b, const LayerFacts& facts) {
            b.model.layers.push_back(facts);
            if (facts.num_experts < 0 || facts.num_experts > kMaxExperts) throw nb::value_error("num_experts out of range");
            b.model.weights.emplace_back().experts.resize(static_cast<size_t>(facts.num_experts));
          },
          nb::arg("facts"))
      .def(
          "add_rope",
          [](ModelBuilder& b, Table cos, Table sin, bool interleaved) {
            if (cos.shape(0) != sin.shape(0) || cos.shape(1) != sin.shape(1) ||
                static_cast<int64_t>(cos.shape(0)) < b.model.facts.max_tokens) {
              throw nb::value_error("rope tables are shorter than max_tokens or differ");
            }
            b.model.ropes.push_back({cos.data(), sin.data(), static_cast<int64_t>(cos.shape(1)), interleaved});
            b.alive.push_back(nb::cast(cos));
            b.alive.push_back(nb::cast(sin));
            return static_cast<int32_t>(b.model.ropes.size()) - 1;
          },
          nb::arg("cos").noconvert(), nb::arg("sin").noconvert(), nb::arg("interleaved"))
      .def(
          "set_vector",
          [](ModelBuilder& b, const std::string& place, int64_t layer, Vector values, int64_t count) {
            if (static_cast<int64_t>(values.shape(0)) != count) throw nb::value_error(("wrong length of " + place).c_str());
            b.vector(place, layer) = values.data();
            b.alive.push_back(nb::cast(values));
          },
          nb::arg("place"), nb::arg("layer"), nb::arg("values").noconvert(), nb::arg("count"))
      .def(
          "set_matrix",
          [](ModelBuilder& b, const std::string& place, int64_t layer, nb::object matrix) {
            b.projection(place, layer).matrix = nb::cast<MatrixHandle&>(matrix).matrix;
            b.alive.push_back(std::move(matrix));
          },
          nb::arg("place"), nb::arg("layer"), nb::arg("matrix"),
          nb::sig("def set_matrix(self, place: str, layer: int, matrix: Matrix) -> None"));
}

void init_decoder(Decoder* self, Pool& pool, const TierHandle& tier, const ModelBuilder& builder, int64_t max_slots,
                  int64_t max_step_tokens, int64_t page_tokens, int32_t kv_type) {
  check_model(builder.model);
  if (max_slots < 1 || max_slots > INT32_MAX || max_step_tokens < 1 || page_tokens < 1 || page_tokens % kTile != 0 ||
      kv_type < 0 || kv_type > 2) {
    throw nb::value_error("a limit is out of range");
  }
  new (self) Decoder(pool, *tier.kernels, builder.model, {max_slots, max_step_tokens, page_tokens, static_cast<KvType>(kv_type)});
}

}  // namespace

void bind_decoder(nb::module_& m) {
  bind_model(m);
  nb::class_<Decoder>(m, "Decoder")
      .def("__init__", &init_decoder, nb::arg("pool"), nb::arg("kernels"), nb::arg("model"), nb::arg("max_slots"),
           nb::arg("max_step_tokens"), nb::arg("page_tokens"), nb::arg("kv_type"), nb::keep_alive<1, 2>(), nb::keep_alive<1, 4>())
      .def("num_groups", &Decoder::num_groups)
      .def("bytes_per_page", &Decoder::bytes_per_page, nb::arg("group"))
      .def("allocate", &Decoder::allocate, nb::arg("pages"))
      .def(
          "read_page",
          [](Decoder& d, int64_t group, int64_t page) {
            std::string bytes(static_cast<size_t>(d.bytes_per_page(group)), '\0');
            d.read_page(group, page, reinterpret_cast<uint8_t*>(bytes.data()));
            return nb::bytes(bytes.data(), bytes.size());
          },
          nb::arg("group"), nb::arg("page"))
      .def(
          "write_page",
          [](Decoder& d, int64_t group, int64_t page, nb::bytes bytes) {
            if (static_cast<int64_t>(bytes.size()) != d.bytes_per_page(group)) throw nb::value_error("a page has another size");
            d.write_page(group, page, reinterpret_cast<const uint8_t*>(bytes.c_str()));
          },
          nb::arg("group"), nb::arg("page"), nb::arg("bytes"))
      .def(
          "submit",
          [](Decoder& d, int64_t number, nb::tuple released, nb::list opened, nb::tuple copies, nb::tuple rows) {
            d.submit(read_step(number, released, opened, copies, rows));
          },
          nb::arg("step"), nb::arg("released"), nb::arg("opened"), nb::arg("copies"), nb::arg("rows"),
          nb::sig(
              "def submit(self, step: int, released: tuple[int, ...], opened: list[tuple[int, tuple[int, ...], int, Sampling]], "
              "copies: tuple[tuple[int, int, int], ...], rows: tuple[tuple[object, ...], ...]) -> None"))
      .def(
          "finish",
          [](Decoder& d, nb::dict masks) {
            const std::vector<MaskRef> refs = read_masks(masks, d.vocab());
            std::vector<RowOutput> rows;
            {
              nb::gil_scoped_release release;
              rows = d.finish(refs);
            }
            return nb::make_tuple(d.seconds(), to_results(rows));
          },
          nb::arg("masks"),
          nb::sig("def finish(self, masks: dict[int, bytes]) -> tuple[float, list[tuple[tuple[int, ...], int, " LOGPROBS
                  " | None, " LOGPROBS " | None]]]"))
      .def("peek_logits",
           [](Decoder& d) {
             std::vector<float> logits;
             {
               nb::gil_scoped_release release;
               logits = d.peek_logits();
             }
             const size_t vocab = static_cast<size_t>(d.vocab());
             return to_array(logits, logits.size() / vocab, vocab);
           })
      .def("cancel", &Decoder::cancel);
}

}  // namespace penstock
