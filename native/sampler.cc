// Sampling: Gumbel-max with counter-based noise, exact filters, and raw log probabilities.
#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels.h"

namespace penstock {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Finaliser of SplitMix64 (Steele, Lea and Flood 2014).
uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

constexpr uint64_t kGolden = 0x9e3779b97f4a7c15ull;

// Noise of one position: token id → (0, 1), 53 bits.
struct Noise {
  uint64_t key;
  Noise(uint64_t seed, uint64_t sample, int64_t position)
      : key(mix(mix(mix(seed + kGolden) + (sample + 1) * kGolden) + (static_cast<uint64_t>(position) + 1) * kGolden)) {}
  double uniform(int32_t token) const {
    const uint64_t z = mix(key + (static_cast<uint64_t>(token) + 1) * kGolden);
    return (static_cast<double>(z >> 11) + 0.5) * 0x1p-53;
  }
  // -log(-log(1 - v)): Gumbel with v uniform.
  double gumbel(int32_t token) const { return -std::log(-std::log1p(-uniform(token))); }
};

// 1 / temperature as a float that keeps 0 · it a zero.
float inverse(double temperature) { return static_cast<float>(std::min(1.0 / temperature, 1e30)); }

// Descending logits, ties to the lower id.
struct Better {
  const float* logits;
  bool operator()(int32_t a, int32_t b) const { return logits[a] > logits[b] || (logits[a] == logits[b] && a < b); }
};

// The `count` best ids in order, into ids. Up to 64 by a sorted window over one scan, more by selection.
void best_ids(const float* logits, int64_t vocab, int64_t count, std::vector<int32_t>& ids) {
  const Better better{logits};
  ids.clear();
  count = std::min(count, vocab);
  if (count <= 0) return;
  if (count > 64) {
    ids.resize(static_cast<size_t>(vocab));
    for (int64_t i = 0; i < vocab; ++i) ids[static_cast<size_t>(i)] = static_cast<int32_t>(i);
    if (count < vocab) {
      std::nth_element(ids.begin(), ids.begin() + count, ids.end(), better);
      ids.resize(static_cast<size_t>(count));
    }
    std::sort(ids.begin(), ids.end(), better);
    return;
  }
  float worst = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < vocab; ++i) {
    const bool full = static_cast<int64_t>(ids.size()) == count;
    if (full && !(logits[i] > worst)) continue;
    const int32_t id = static_cast<int32_t>(i);
    if (full) ids.pop_back();
    ids.insert(std::upper_bound(ids.begin(), ids.end(), id, better), id);
    if (static_cast<int64_t>(ids.size()) == count) worst = logits[ids.back()];
  }
}

float penalize(float logit, int32_t occurrences, const Sampling& s) {
  if (s.repetition != 1.0f) logit = logit > 0.0f ? logit / s.repetition : logit * s.repetition;
  if (occurrences > 0) logit -= s.presence + s.frequency * static_cast<float>(occurrences);
  return logit;
}

bool changes_logits(const SampleInput& input, const Sampling& s, const History& history) {
  return s.penalizes() || !s.bias.empty() || input.mask != nullptr || (history.num_output() < s.min_tokens && !s.end_ids.empty());
}

// Penalties, bias, min_tokens mask, grammar mask, in that order.
void change_logits(const SampleInput& input, const Sampling& s, History& history, float* logits) {
  constexpr float kMasked = -std::numeric_limits<float>::infinity();
  if (s.penalizes()) {
    for (const auto& [token, occurrences] : history.counts()) logits[token] = penalize(logits[token], occurrences, s);
  }
  for (const auto& [token, value] : s.bias) logits[token] += value;
  if (history.num_output() < s.min_tokens) {
    for (const int32_t token : s.end_ids) logits[token] = kMasked;
  }
  if (input.mask != nullptr) {
    for (int64_t i = 0; i < input.vocab; ++i) {
      if (!(input.mask[i >> 3] >> (i & 7) & 1)) logits[i] = kMasked;
    }
  }
}

// The kept ids, in order of likelihood, of a filter chain; works on the logits of one position.
class Filter {
 public:
  Filter(const Kernels& kernels, const float* logits, int64_t vocab, float maximum, const Sampling& s, SampleScratch& scratch)
      : kernels_(kernels), logits_(logits), vocab_(vocab), max_(maximum), s_(s), ids_(scratch.ids) {}

  // False when every token is kept and ids were not made.
  bool run() {
    const bool limited = s_.top_k > 0 && s_.top_k < vocab_;
    if (!limited && s_.top_p >= 1.0 && s_.min_p <= 0.0 && s_.typical_p >= 1.0) return false;
    if (limited) best_ids(logits_, vocab_, s_.top_k, ids_);
    if (s_.top_p < 1.0) {
      if (limited) {
        cut_top_p(total());
      } else {
        search_top_p();
      }
    } else if (!limited) {
      if (s_.min_p > 0.0) {
        collect_min_p();
      } else {
        best_ids(logits_, vocab_, vocab_, ids_);
      }
    }
    if (s_.min_p > 0.0) cut_min_p();
    if (s_.typical_p < 1.0) cut_typical_p();
    return true;
  }

 private:
  // Weight of a token relative to the most likely one.
  double weight(int32_t id) const { return std::exp((static_cast<double>(logits_[id]) - max_) / s_.temperature); }

  double total() const {
    double sum = 0.0;
    for (const int32_t id : ids_) sum += weight(id);
    return sum;
  }

  // Keeps the shortest head whose mass reaches top_p; false when the ids end before it does.
  bool cut_top_p(double sum) {
    double mass = 0.0;
    for (size_t i = 0; i < ids_.size(); ++i) {
      mass += weight(ids_[i]);
      if (mass >= s_.top_p * sum) {
        ids_.resize(i + 1);
        return true;
      }
    }
    return false;
  }

  void search_top_p() {
    const double sum = kernels_.sum_exp(logits_, vocab_, max_, inverse(s_.temperature));
    for (int64_t count = 64;; count *= 8) {
      best_ids(logits_, vocab_, count, ids_);
      if (cut_top_p(sum) || count >= vocab_) return;
    }
  }

  void collect_min_p() {
    ids_.clear();
    for (int64_t i = 0; i < vocab_; ++i) {
      const int32_t id = static_cast<int32_t>(i);
      if (logits_[i] == max_ || weight(id) >= s_.min_p) ids_.push_back(id);
    }
    std::sort(ids_.begin(), ids_.end(), Better{logits_});
  }

  void cut_min_p() {
    size_t kept = 0;
    while (kept < ids_.size() && (kept == 0 || weight(ids_[kept]) >= s_.min_p)) ++kept;
    ids_.resize(kept);
  }

  // Locally typical sampling (Meister et al. 2022): nearest to the entropy first.
  void cut_typical_p() {
    const double log_sum = std::log(total());
    double entropy = 0.0;
    const auto surprise = [&](int32_t id) { return log_sum - (static_cast<double>(logits_[id]) - max_) / s_.temperature; };
    for (const int32_t id : ids_) {
      const double p = std::exp(-surprise(id));
      if (p > 0.0) entropy += p * surprise(id);
    }
    std::stable_sort(ids_.begin(), ids_.end(),
                     [&](int32_t a, int32_t b) { return std::abs(surprise(a) - entropy) < std::abs(surprise(b) - entropy); });
    double mass = 0.0;
    for (size_t i = 0; i < ids_.size(); ++i) {
      mass += std::exp(-surprise(ids_[i]));
      if (mass >= s_.typical_p) {
        ids_.resize(i + 1);
        return;
      }
    }
  }

  const Kernels& kernels_;
  const float* logits_;
  int64_t vocab_;
  double max_;
  const Sampling& s_;
  std::vector<int32_t>& ids_;
};

// argmax of (logit - maximum) / T + Gumbel over ids; the shift changes no order and keeps tiny temperatures exact.
int32_t race(const float* logits, double maximum, double temperature, const Noise& noise, const std::vector<int32_t>& ids) {
  double best = -kInfinity;
  int32_t winner = -1;
  for (const int32_t id : ids) {
    if (logits[id] == -std::numeric_limits<float>::infinity()) continue;
    const double score = (logits[id] - maximum) / temperature + noise.gumbel(id);
    if (score > best || (score == best && id < winner)) {
      best = score;
      winner = id;
    }
  }
  return winner;
}

// The same over the whole vocabulary, taking logarithms only where a token can still win: since -log(1 - v) ≥ v, a token whose
// v · exp(best) exceeds exp(logit / T) cannot. `weights` are exp((logit - max) / T) with a relative error far below the slack.
int32_t race_all(const float* logits, int64_t vocab, double temperature, double maximum, const Noise& noise,
                 const float* weights) {
  constexpr double kSlack = 1.001;
  double best = -kInfinity, bar = 0.0;
  int32_t winner = -1;
  for (int64_t i = 0; i < vocab; ++i) {
    const int32_t id = static_cast<int32_t>(i);
    const double v = noise.uniform(id);
    if (v * bar > weights[i] * kSlack + 1e-36 || logits[i] == -std::numeric_limits<float>::infinity()) continue;
    const double score = (logits[i] - maximum) / temperature - std::log(-std::log1p(-v));
    if (score > best) {
      best = score;
      winner = id;
      bar = std::exp(best);
    }
  }
  return winner;
}

}  // namespace

void History::reset(std::vector<int32_t> tokens, int64_t num_prompt) {
  tokens_ = std::move(tokens);
  num_prompt_ = num_prompt;
  counted_ = 0;
  counts_.clear();
}

void History::put(int64_t position, int32_t token) {
  if (position < size() && at(position) == token && position + 1 == size()) return;
  if (position < counted_) {
    counted_ = 0;
    counts_.clear();
  }
  tokens_.resize(static_cast<size_t>(position));
  tokens_.push_back(token);
}

const std::unordered_map<int32_t, int32_t>& History::counts() {
  for (; counted_ < size(); ++counted_) {
    int32_t& count = counts_[at(counted_)];
    if (counted_ >= num_prompt_) ++count;
  }
  return counts_;
}

TokenLogprob token_logprob(const Kernels& kernels, const float* logits, int64_t vocab, int32_t token, int64_t top,
                           SampleScratch& scratch) {
  const LogitFacts facts = kernels.scan_logits(logits, vocab);
  const double log_sum = facts.maximum + std::log(kernels.sum_exp(logits, vocab, facts.maximum, 1.0f));
  TokenLogprob out;
  out.token = token;
  out.logprob = static_cast<float>(logits[token] - log_sum);
  const float own = logits[token];
  int64_t ahead = 0;
  for (int64_t i = 0; i < vocab; ++i) ahead += logits[i] > own;
  for (int64_t i = 0; i < token; ++i) ahead += logits[i] == own;
  out.rank = ahead + 1;
  best_ids(logits, vocab, top, scratch.ids);
  for (const int32_t id : scratch.ids) out.top.emplace_back(id, static_cast<float>(logits[id] - log_sum));
  return out;
}

SampleError sample_token(const Kernels& kernels, const SampleInput& input, const Sampling& s, History& history,
                         SampleScratch& scratch, int32_t& token, TokenLogprob* logprob) {
  LogitFacts facts = kernels.scan_logits(input.logits, input.vocab);
  if (!facts.finite) return SampleError::invalid_logits;
  const float* logits = input.logits;
  if (changes_logits(input, s, history)) {
    scratch.logits.assign(logits, logits + input.vocab);
    change_logits(input, s, history, scratch.logits.data());
    logits = scratch.logits.data();
    facts = kernels.scan_logits(logits, input.vocab);
    if (facts.maximum == -std::numeric_limits<float>::infinity()) return SampleError::empty_mask;
  }
  if (s.temperature == 0.0) {
    token = static_cast<int32_t>(facts.argmax);
  } else {
    const Noise noise(s.seed, s.sample, input.position);
    if (Filter(kernels, logits, input.vocab, facts.maximum, s, scratch).run()) {
      token = race(logits, facts.maximum, s.temperature, noise, scratch.ids);
    } else {
      scratch.weights.resize(static_cast<size_t>(input.vocab));
      kernels.exp_scaled(logits, input.vocab, facts.maximum, inverse(s.temperature), scratch.weights.data());
      token = race_all(logits, input.vocab, s.temperature, facts.maximum, noise, scratch.weights.data());
    }
  }
  if (logprob != nullptr && s.logprobs >= 0) {
    *logprob = token_logprob(kernels, input.logits, input.vocab, token, s.logprobs, scratch);
  }
  return SampleError::none;
}

}  // namespace penstock
