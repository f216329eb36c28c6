// A layer's mixture of experts: which experts a token takes, their products dealt out together, and the weighted sum.
// Knows nothing about attention or pages. Invariant: a token's experts are summed in the order of their rank, so that its bits do not
// depend on who else takes an expert, on the threads, or on how the tokens are cut.
#include <algorithm>
#include <limits>

#include "decoder.h"
#include "kernels.h"

namespace penstock {
namespace {

// Floats of scratch for the experts' inputs, middles and outputs: tokens beyond it go in another turn, which reads the weights again.
constexpr int64_t kScratchFloats = int64_t{1} << 25;

// Writes the k experts of one token and their shares; spoils its logits. Chosen by logit, ties to the lower index.
void choose_experts(const Kernels& kernels, const LayerFacts& f, float* logits, int32_t* expert, float* weight) {
  const int64_t count = f.num_experts, k = f.experts_per_token;
  const LogitFacts facts = kernels.scan_logits(logits, count);
  if (!facts.finite) {  // the fault shows in the token's output
    for (int64_t r = 0; r < k; ++r) {
      expert[r] = static_cast<int32_t>(r);
      weight[r] = std::numeric_limits<float>::quiet_NaN();
    }
    return;
  }
  int64_t last = facts.argmax;
  expert[0] = static_cast<int32_t>(last);
  for (int64_t r = 1; r < k; ++r) {
    const float bound = logits[last];
    int64_t best = -1;
    for (int64_t e = 0; e < count; ++e) {
      const bool left = logits[e] < bound || (logits[e] == bound && e > last);
      if (left && (best < 0 || logits[e] > logits[best])) best = e;
    }
    last = best;
    expert[r] = static_cast<int32_t>(last);
  }
  kernels.exp_scaled(logits, count, facts.maximum, 1.0f, logits);
  double total = 0.0;
  if (f.norm_topk) {
    for (int64_t r = 0; r < k; ++r) total += logits[expert[r]];
  } else {
    for (int64_t e = 0; e < count; ++e) total += logits[e];
  }
  for (int64_t r = 0; r < k; ++r) weight[r] = static_cast<float>(logits[expert[r]] / total);
}

}  // namespace

// logits: [tokens, num_experts], spoiled.
void Decoder::route(const LayerFacts& f, float* logits) {
  const int64_t k = f.experts_per_token, tokens = static_cast<int64_t>(batch_.size());
  routing_.expert.resize(static_cast<size_t>(tokens * k));
  routing_.weight.resize(static_cast<size_t>(tokens * k));
  over_tokens(f.num_experts * (k + 8), [&](int64_t i) {
    choose_experts(kernels_, f, logits + i * f.num_experts, routing_.expert.data() + i * k, routing_.weight.data() + i * k);
  });
}

// Sorts the pairs of tokens [first_token, first_token + count) by expert, then by token.
void Decoder::group_pairs(const LayerFacts& f, int64_t first_token, int64_t count) {
  const int64_t k = f.experts_per_token, pairs = count * k;
  const int32_t* expert = routing_.expert.data() + first_token * k;
  std::vector<int64_t>& first = routing_.first;
  first.assign(static_cast<size_t>(f.num_experts) + 1, 0);
  for (int64_t p = 0; p < pairs; ++p) ++first[static_cast<size_t>(expert[p]) + 1];
  for (size_t e = 1; e < first.size(); ++e) first[e] += first[e - 1];
  routing_.token.resize(static_cast<size_t>(pairs));
  routing_.pair.resize(static_cast<size_t>(pairs));
  for (int64_t p = 0; p < pairs; ++p) {
    const int64_t at = first[static_cast<size_t>(expert[p])]++;
    routing_.token[static_cast<size_t>(at)] = static_cast<int32_t>(first_token + p / k);
    routing_.pair[static_cast<size_t>(p)] = static_cast<int32_t>(at);
  }
  for (size_t e = first.size() - 1; e > 0; --e) first[e] = first[e - 1];
  first[0] = 0;
}

// The experts' outputs of the pairs that routing_ holds. out: [pairs, hidden]
void Decoder::run_experts(size_t layer, float* out) {
  const LayerFacts& f = model_.layers[layer];
  const std::vector<GatedMlp>& experts = model_.weights[layer].experts;
  const int64_t pairs = static_cast<int64_t>(routing_.token.size()), width = f.intermediate;
  float* gate = gate_.need(pairs * width);
  float* up = up_.need(pairs * width);
  const auto add = [&](const Projection& p, size_t e, float* y) {
    const int64_t first = routing_.first[e], rows = routing_.first[e + 1] - first;
    parts_.push_back({&p.matrix, p.bias, first, rows, y + first * p.matrix.n, p.matrix.n});
  };
  const auto taken = [&](size_t e) { return routing_.first[e + 1] > routing_.first[e]; };
  parts_.clear();
  for (size_t e = 0; e < experts.size(); ++e) {
    if (!taken(e)) continue;
    add(experts[e].gate, e, gate);
    add(experts[e].up, e, up);
  }
  routed_.gather(activations_, routing_.token.data(), pairs);
  linear_parts(pool_, kernels_, parts_.data(), static_cast<int64_t>(parts_.size()), routed_);
  parts_.clear();
  for (size_t e = 0; e < experts.size(); ++e) {
    if (taken(e)) add(experts[e].down, e, out);
  }
  routed_.reset(gate, width, pairs, width, [&](int64_t i) {
    kernels_.gated(gate + i * width, up + i * width, gate + i * width, width, static_cast<int32_t>(f.activation), f.clamp);
  });
  linear_parts(pool_, kernels_, parts_.data(), static_cast<int64_t>(parts_.size()), routed_);
}

// out += what the shared expert makes of every token, times its gate. Spoils what activations_ holds.
void Decoder::add_shared(size_t layer, float* out) {
  const LayerFacts& f = model_.layers[layer];
  const LayerWeights& w = model_.weights[layer];
  const int64_t tokens = static_cast<int64_t>(batch_.size()), hidden = model_.facts.hidden;
  const bool gated = w.shared_router.matrix.n > 0;
  float* gates = router_.need(tokens);
  if (gated) project(w.shared_router, gates);
  float* shared = experts_out_.need(tokens * hidden);
  dense_mlp(f, w.shared, f.shared_intermediate, shared);
  over_tokens(hidden, [&](int64_t i) {
    float weight = 1.0f;
    if (gated) {
      float decay = 0.0f;
      kernels_.exp_scaled(gates + i, 1, 0.0f, -1.0f, &decay);
      weight = 1.0f / (1.0f + decay);
    }
    kernels_.add_scaled(out + i * hidden, shared + i * hidden, weight, hidden);
  });
}

// out: [tokens, hidden] of the inputs that activations_ holds.
void Decoder::mixture(size_t layer, float* out) {
  const LayerFacts& f = model_.layers[layer];
  const LayerWeights& w = model_.weights[layer];
  const int64_t tokens = static_cast<int64_t>(batch_.size()), hidden = model_.facts.hidden, k = f.experts_per_token;
  float* logits = router_.need(tokens * f.num_experts);
  project(w.router, logits);
  route(f, logits);
  const int64_t pair_floats = 3 * f.intermediate + 3 * hidden;  // gate, up, down's int8 input; input as floats or int8, output
  const int64_t turn = std::max<int64_t>(1, kScratchFloats / (pair_floats * k));
  for (int64_t first = 0; first < tokens; first += turn) {
    const int64_t count = std::min(turn, tokens - first);
    group_pairs(f, first, count);
    float* outputs = experts_out_.need(count * k * hidden);
    run_experts(layer, outputs);
    over(count, k * hidden, [&](int64_t i) {
      float* sum = out + (first + i) * hidden;
      std::fill_n(sum, hidden, 0.0f);
      for (int64_t r = 0; r < k; ++r) {
        const int64_t pair = routing_.pair[static_cast<size_t>(i * k + r)];
        kernels_.add_scaled(sum, outputs + pair * hidden, routing_.weight[static_cast<size_t>((first + i) * k + r)], hidden);
      }
    });
  }
  if (f.shared_intermediate > 0) add_shared(layer, out);
}

}  // namespace penstock
