// Choosing the next token from logits. Knows nothing about models, pages or batches.
// Invariant: the token is a function of (logits, parameters, history, seed, sample, position) alone, and always < vocab.
#pragma once
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

#include "sampler_view.h"

namespace penstock {

// core.types.SamplingParams, resolved for one sequence.
struct Sampling {
  double temperature = 1.0, top_p = 1.0, min_p = 0.0, typical_p = 1.0;
  int64_t top_k = 0;
  float repetition = 1.0f, presence = 0.0f, frequency = 0.0f;
  int64_t min_tokens = 0;
  int32_t logprobs = -1;  // alternatives beside the sampled token's own; -1 is none at all
  uint64_t seed = 0, sample = 0;
  std::vector<std::pair<int32_t, float>> bias;
  std::vector<int32_t> end_ids;  // masked before min_tokens

  bool penalizes() const { return repetition != 1.0f || presence != 0.0f || frequency != 0.0f; }
};

// Tokens of one sequence, and how often each occurs (counted lazily, for penalties).
class History {
 public:
  void reset(std::vector<int32_t> tokens, int64_t num_prompt);
  // Makes `token` the one at `position`; what follows it is forgotten. position ≤ size.
  void put(int64_t position, int32_t token);
  void push(int32_t token) { put(static_cast<int64_t>(tokens_.size()), token); }
  int64_t size() const { return static_cast<int64_t>(tokens_.size()); }
  int64_t num_output() const { return size() - num_prompt_; }
  int32_t at(int64_t position) const { return tokens_[static_cast<size_t>(position)]; }

  // token → occurrences in the output (0: only in the prompt).
  const std::unordered_map<int32_t, int32_t>& counts();

 private:
  std::vector<int32_t> tokens_;
  std::unordered_map<int32_t, int32_t> counts_;
  int64_t num_prompt_ = 0, counted_ = 0;
};

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0.0f;
  int64_t rank = 0;                            // 1 is the most likely; ties rank by id
  std::vector<std::pair<int32_t, float>> top;  // most likely first, ties by id
};

enum class SampleError : int32_t { none = 0, invalid_logits = 1, empty_mask = 2 };

// What one thread needs beside the logits.
struct SampleScratch {
  std::vector<float> logits, maxima, weights, work;
  std::vector<int32_t> ids, blocks;
  std::vector<uint64_t> least;
  std::vector<Edits::Saved> edits;
};

// Log probability, rank and the `top` most likely tokens of `token` under the raw logits, all finite.
TokenLogprob token_logprob(const Kernels& kernels, const LogitView& view, int32_t token, int64_t top, SampleScratch& scratch);

// The raw logits of one position; they are changed meanwhile and as they were in the end. mask: packed bits (1 = allowed),
// ceil(vocab / 8) bytes, or null.
struct SampleInput {
  LogitView view;
  int64_t position;
  const uint8_t* mask;
};

struct Sampled {
  int32_t token = -1;
  SampleError error = SampleError::none;
  TokenLogprob logprob;  // where the parameters ask for it
};

// The token that follows, or why there is none; order of operations as core.types.SamplingParams says.
Sampled sample_token(const Kernels& kernels, const SampleInput& input, const Sampling& sampling, History& history,
                     SampleScratch& scratch);

}  // namespace penstock
