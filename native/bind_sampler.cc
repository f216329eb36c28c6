// Sampling in Python: parameters, and the sampler over rows of logits without a model, for tests and benchmarks.
// Checks every shape and id; computes nothing itself. Invariant: logits that are lent are as they were when a call returns.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bind.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace penstock {

nb::object to_logprobs(const std::vector<TokenLogprob>& values) {
  if (values.empty()) return nb::none();
  nb::list out;
  for (const TokenLogprob& value : values) {
    nb::list top;
    for (const auto& [token, logprob] : value.top) top.append(nb::make_tuple(token, logprob));
    out.append(nb::make_tuple(value.token, value.logprob, value.rank, nb::tuple(top)));
  }
  return out;
}

namespace {

using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using RowsOut = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void need(bool condition, const char* what) {
  if (!condition) throw nb::value_error(what);
}

// One sequence's parameters and tokens.
struct SampleRow {
  Sampling sampling;
  std::vector<int32_t> tokens;
  History history;

  SampleRow(const Sampling& parameters, std::vector<int32_t> given, int64_t num_prompt)
      : sampling(parameters), tokens(std::move(given)) {
    need(num_prompt >= 0 && num_prompt <= static_cast<int64_t>(tokens.size()), "num_prompt out of range");
    history.reset(tokens, num_prompt);
  }

  void check(int64_t vocab) const {
    const auto known = [vocab](int32_t id) { return id >= 0 && id < vocab; };
    need(std::all_of(tokens.begin(), tokens.end(), known), "token id out of range");
    need(std::all_of(sampling.end_ids.begin(), sampling.end_ids.end(), known), "end id out of range");
    need(std::all_of(sampling.bias.begin(), sampling.bias.end(), [&](const auto& b) { return known(b.first); }),
         "bias id out of range");
  }
};

// A copy of logits, one row, with its outline.
struct Outlined {
  std::vector<float> logits, maxima;

  Outlined(const Kernels& kernels, const Vector& source)
      : logits(source.data(), source.data() + source.shape(0)),
        maxima(static_cast<size_t>(outline_count(static_cast<int64_t>(source.shape(0))))) {
    const auto vocab = static_cast<int64_t>(logits.size());
    kernels.outline(logits.data(), vocab, 1, vocab, maxima.data(), outline_count(vocab));
  }
  LogitView view() { return {logits.data(), maxima.data(), static_cast<int64_t>(logits.size())}; }
};

// Many draws from one distribution, position by position: for tests of the distribution.
std::vector<int32_t> sample_many(const TierHandle& tier, const Vector& logits, const Sampling& sampling, int64_t first_position,
                                 int64_t count, std::vector<int32_t> tokens, int64_t num_prompt) {
  need(count >= 0 && logits.shape(0) >= 1, "count or logits out of range");
  SampleRow row(sampling, std::move(tokens), num_prompt);
  row.check(static_cast<int64_t>(logits.shape(0)));
  std::vector<int32_t> out(static_cast<size_t>(count), -1);
  nb::gil_scoped_release release;
  Outlined outlined(*tier.kernels, logits);
  SampleScratch scratch;
  for (int64_t i = 0; i < count; ++i) {
    const SampleInput input{outlined.view(), first_position + i, nullptr};
    out[static_cast<size_t>(i)] = sample_token(*tier.kernels, input, row.sampling, row.history, scratch).token;
  }
  return out;
}

// Raw log probabilities of one token, as results carry them.
nb::object raw_logprob(const TierHandle& tier, const Vector& logits, int32_t token, int64_t top) {
  need(token >= 0 && token < static_cast<int64_t>(logits.shape(0)) && top >= 0, "token or top out of range");
  SampleScratch scratch;
  Outlined outlined(*tier.kernels, logits);
  return to_logprobs({token_logprob(*tier.kernels, outlined.view(), token, top, scratch)});
}

LogitRows logit_rows(RowsOut& logits, RowsOut& maxima) {
  const auto vocab = static_cast<int64_t>(logits.shape(1));
  need(vocab > 0 && maxima.shape(0) == logits.shape(0) && static_cast<int64_t>(maxima.shape(1)) == outline_count(vocab),
       "maxima must have as many rows as logits, and one value for each 32 of them");
  return {logits.data(), maxima.data(), vocab};
}

void fill_head_rows(Pool& pool, const TierHandle& tier, const MatrixHandle& head, const Rows& x, RowsOut logits, RowsOut maxima) {
  const LogitRows out = logit_rows(logits, maxima);
  need(out.vocab == head.matrix.n && static_cast<int64_t>(x.shape(1)) == head.matrix.k && x.shape(0) == logits.shape(0),
       "x, head and logits must fit each other");
  nb::gil_scoped_release release;
  Activations in;
  in.reset(x.data(), head.matrix.k, static_cast<int64_t>(x.shape(0)), head.matrix.k);
  head_rows(pool, *tier.kernels, head.matrix, nullptr, in, {}, out);
}

std::vector<const uint8_t*> read_masks(const std::optional<std::vector<std::optional<nb::bytes>>>& masks, size_t rows,
                                       int64_t vocab) {
  std::vector<const uint8_t*> out(rows, nullptr);
  if (!masks) return out;
  need(masks->size() == rows, "masks must have one entry a row");
  for (size_t i = 0; i < rows; ++i) {
    const auto& mask = (*masks)[i];
    if (!mask) continue;
    need(static_cast<int64_t>(mask->size()) == (vocab + 7) / 8, "a mask has another length than ceil(V / 8)");
    out[i] = reinterpret_cast<const uint8_t*>(mask->c_str());
  }
  return out;
}

nb::list sample_rows(Pool& pool, const TierHandle& tier, RowsOut logits, RowsOut maxima, const nb::list& rows, int64_t position,
                     const std::optional<std::vector<std::optional<nb::bytes>>>& masks) {
  const LogitRows in = logit_rows(logits, maxima);
  need(rows.size() == logits.shape(0), "rows must have one entry a row of logits");
  std::vector<SampleRow*> each;
  for (nb::handle row : rows) {
    each.push_back(&nb::cast<SampleRow&>(row));
    each.back()->check(in.vocab);
    need(std::count(each.begin(), each.end(), each.back()) == 1, "a row is given twice");
  }
  const std::vector<const uint8_t*> mask_of = read_masks(masks, each.size(), in.vocab);
  std::vector<Sampled> sampled(each.size());
  {
    nb::gil_scoped_release release;
    std::vector<SampleScratch> scratch(static_cast<size_t>(pool.threads()));
    pool.each(static_cast<int64_t>(each.size()), [&](int64_t index, int thread) {
      const auto i = static_cast<size_t>(index);
      sampled[i] = sample_token(*tier.kernels, {in.row(index), position, mask_of[i]}, each[i]->sampling, each[i]->history,
                                scratch[static_cast<size_t>(thread)]);
    });
  }
  nb::list out;
  for (size_t i = 0; i < each.size(); ++i) {
    const bool logprobs = each[i]->sampling.logprobs >= 0 && sampled[i].error == SampleError::none;
    out.append(nb::make_tuple(sampled[i].token, static_cast<int32_t>(sampled[i].error),
                              logprobs ? to_logprobs({sampled[i].logprob}) : nb::none()));
  }
  return out;
}

std::vector<uint64_t> least_noise(const TierHandle& tier, uint64_t key, const std::vector<int32_t>& blocks) {
  std::vector<uint64_t> least(blocks.size());
  tier.kernels->least_noise(key, blocks.data(), static_cast<int64_t>(blocks.size()), least.data());
  return least;
}

void bind_parameters(nb::module_& m) {
  nb::class_<Sampling>(m, "Sampling")
      .def(nb::init<>())
      .def_rw("temperature", &Sampling::temperature)
      .def_rw("top_p", &Sampling::top_p)
      .def_rw("min_p", &Sampling::min_p)
      .def_rw("typical_p", &Sampling::typical_p)
      .def_rw("top_k", &Sampling::top_k)
      .def_rw("repetition", &Sampling::repetition)
      .def_rw("presence", &Sampling::presence)
      .def_rw("frequency", &Sampling::frequency)
      .def_rw("min_tokens", &Sampling::min_tokens)
      .def_rw("logprobs", &Sampling::logprobs)
      .def_rw("seed", &Sampling::seed)
      .def_rw("sample", &Sampling::sample)
      .def_rw("bias", &Sampling::bias)
      .def_rw("end_ids", &Sampling::end_ids);
  nb::class_<SampleRow>(m, "SampleRow")
      .def(nb::init<const Sampling&, std::vector<int32_t>, int64_t>(), "sampling"_a, "tokens"_a, "num_prompt"_a);
}

}  // namespace

void bind_sampler(nb::module_& m) {
  bind_parameters(m);
  m.def("sample_many", &sample_many, "kernels"_a, "logits"_a.noconvert(), "sampling"_a, "first_position"_a, "count"_a, "tokens"_a,
        "num_prompt"_a, "Tokens drawn at successive positions from the same logits and history; -1 where nothing may be drawn.");
  m.def("raw_logprob", &raw_logprob, "kernels"_a, "logits"_a.noconvert(), "token"_a, "top"_a,
        nb::sig(
            "def raw_logprob(kernels: Kernels, logits: numpy.typing.NDArray[numpy.float32], token: int, top: int) -> " LOGPROBS));
  m.def("head_rows", &fill_head_rows, "pool"_a, "kernels"_a, "head"_a, "x"_a.noconvert(), "logits"_a.noconvert(),
        "maxima"_a.noconvert(), "Fills logits with x times the head, and maxima with the greatest of each 32.");
  m.def("sample_rows", &sample_rows, "pool"_a, "kernels"_a, "logits"_a.noconvert(), "maxima"_a.noconvert(), "rows"_a,
        "position"_a, "masks"_a = nb::none(),
        nb::sig("def sample_rows(pool: Pool, kernels: Kernels, logits: numpy.typing.NDArray[numpy.float32], maxima: "
                "numpy.typing.NDArray[numpy.float32], rows: list[SampleRow], position: int, masks: list[bytes | None] | None = "
                "None) -> list[tuple[int, int, " LOGPROBS " | None]]"),
        "(token, error, log probabilities) of each row of logits that head_rows() filled.");
  m.def("least_noise", &least_noise, "kernels"_a, "key"_a, "blocks"_a,
        "The least noise of each block of 32 tokens, 53 bits, of one position's key.");
}

}  // namespace penstock
