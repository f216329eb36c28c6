// What the parts of the Python module share: handles that keep numpy arrays alive. Included by bind*.cc only.
// Invariant: a handle's pointers live as long as the handle.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <optional>
#include <vector>

#include "counted.h"
#include "kernels.h"
#include "linear.h"
#include "pool.h"
#include "sampler.h"
#include "threads.h"

namespace penstock {

using Bytes = nanobind::ndarray<const uint8_t, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;

struct TierHandle {
  const Kernels* kernels = nullptr;
};

struct MatrixHandle {
  Matrix matrix{};
  std::optional<Bytes> codes, scales, subscales, mins, codebook;
  Counted<MatrixHandle> counted;
};

// How to_logprobs() results are typed in Python.
#define LOGPROBS "list[tuple[int, float, int, tuple[tuple[int, float], ...]]]"

// None without any, else a list of (token, logprob, rank, ((token, logprob), ...)).
nanobind::object to_logprobs(const std::vector<TokenLogprob>& values);  // bind_sampler.cc

void bind_sampler(nanobind::module_& m);               // bind_sampler.cc
void bind_decoder(nanobind::module_& m);               // bind_decoder.cc
void bind_ops(nanobind::class_<TierHandle>& kernels);  // bind_ops.cc

}  // namespace penstock
