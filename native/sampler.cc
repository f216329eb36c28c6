// Sampling: Gumbel-max with counter-based noise, exact filters, and raw log probabilities.
#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels.h"
#include "sampler_noise.h"

namespace penstock {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Noise of one position: token id → Gumbel.
struct Noise {
  uint64_t key;
  Noise(uint64_t seed, uint64_t sample, int64_t position)
      : key(mix(mix(mix(seed + kGolden) + (sample + 1) * kGolden) + (static_cast<uint64_t>(position) + 1) * kGolden)) {}
  double uniform(int32_t token) const { return noise_uniform(noise_bits(key, token)); }
  // -log(-log(1 - v)): Gumbel with v uniform.
  double gumbel(int32_t token) const { return -std::log(-std::log1p(-uniform(token))); }
};

// 1 / temperature as a float that keeps 0 · it a zero.
float inverse(double temperature) { return static_cast<float>(std::min(1.0 / temperature, 1e30)); }

float penalize(float logit, int32_t occurrences, const Sampling& s) {
  if (s.repetition != 1.0f) logit = logit > 0.0f ? logit / s.repetition : logit * s.repetition;
  if (occurrences > 0) logit -= s.presence + s.frequency * static_cast<float>(occurrences);
  return logit;
}

// Penalties, bias and min_tokens mask, in that order.
void change_logits(const LogitView& view, const Sampling& s, History& history, Edits& edits) {
  if (s.penalizes()) {
    for (const auto& [token, occurrences] : history.counts()) edits.set(token, penalize(view.logits[token], occurrences, s));
  }
  for (const auto& [token, value] : s.bias) edits.set(token, view.logits[token] + value);
  if (history.num_output() < s.min_tokens) {
    for (const int32_t token : s.end_ids) edits.set(token, static_cast<float>(-kInfinity));
  }
}

// The kept ids, in order of likelihood, of a filter chain; works on the logits of one position.
class Filter {
 public:
  Filter(const Kernels& kernels, const LogitView& view, float maximum, const Sampling& s, SampleScratch& scratch)
      : kernels_(kernels), view_(view), max_(maximum), s_(s), ids_(scratch.ids), work_(scratch.work) {}

  // False when every token is kept and ids were not made.
  bool run() {
    const bool limited = s_.top_k > 0 && s_.top_k < view_.vocab;
    if (!limited && s_.top_p >= 1.0 && s_.min_p <= 0.0 && s_.typical_p >= 1.0) return false;
    if (limited) best_ids(view_, s_.top_k, ids_, work_);
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
        best_ids(view_, view_.vocab, ids_, work_);
      }
    }
    if (s_.min_p > 0.0) cut_min_p();
    if (s_.typical_p < 1.0) cut_typical_p();
    return true;
  }

 private:
  static constexpr double kMargin = 1.0 + 1e-5;  // over what rounding does to sums of weights

  // Weight of a token relative to the most likely one.
  double weight(int32_t id) const { return std::exp((static_cast<double>(view_.logits[id]) - max_) / s_.temperature); }

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
    const double sum = kernels_.sum_exp(view_.logits, view_.vocab, max_, inverse(s_.temperature));
    for (const int64_t count : {64, 512}) {
      best_ids(view_, count, ids_, work_);
      if (cut_top_p(sum) || count >= view_.vocab) return;
    }
    ids_from(view_, floor_of_mass(s_.top_p * sum * kMargin), ids_);
    if (cut_top_p(sum)) return;
    ids_from(view_, static_cast<float>(-kInfinity), ids_);
    cut_top_p(sum);
  }

  // A logit above which there is that much of the weights, if roughly: what is found with it is counted exactly.
  float floor_of_mass(double mass) {
    constexpr int kLevels = 1024, kPerUnit = 16;  // levels of an e-th to a power each, over 64 such units
    double level[kLevels] = {};
    work_.resize(static_cast<size_t>(view_.vocab));
    kernels_.exp_scaled(view_.logits, view_.vocab, max_, inverse(s_.temperature), work_.data());
    const float steps = kPerUnit * inverse(s_.temperature), maximum = max_;
    for (int64_t id = 0; id < view_.vocab; ++id) {
      const float depth = (maximum - view_.logits[id]) * steps;
      level[depth < kLevels - 1 ? static_cast<int>(depth) : kLevels - 1] += work_[static_cast<size_t>(id)];
    }
    double above = 0.0;
    for (int i = 0; i < kLevels - 1; ++i) {
      above += level[i];
      if (above >= mass) return maximum - static_cast<float>(i + 1) / steps;
    }
    return static_cast<float>(-kInfinity);
  }

  // A little more than what min_p keeps, whatever rounding does to weights: cut_min_p() is exact.
  void collect_min_p() {
    const double floor = max_ + s_.temperature * std::log(s_.min_p);
    const double slack = 1e-5 * (1.0 + std::abs(floor) + std::abs(max_)) + 1e-12 * s_.temperature;
    ids_from(view_, static_cast<float>(std::max<double>(floor - slack, std::numeric_limits<float>::lowest())), ids_);
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
    const auto surprise = [&](int32_t id) { return log_sum - (static_cast<double>(view_.logits[id]) - max_) / s_.temperature; };
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
  LogitView view_;
  float max_;
  const Sampling& s_;
  std::vector<int32_t>& ids_;
  std::vector<float>& work_;
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

// The same over the whole vocabulary, looking only where a token can still win: since -log(1 - v) ≥ v, a token whose v · exp(best)
// exceeds exp((logit - maximum) / T) cannot. A block is passed over when that holds for its least v and greatest logit, and its noise is
// not even made when it holds for the least v that there is.
class WholeRace {
 public:
  WholeRace(const Kernels& kernels, const LogitView& view, const Greatest& top, double temperature, const Noise& noise)
      : kernels_(kernels), view_(view), max_(top.logit), temperature_(temperature), noise_(noise) {
    enter(top.id, noise.uniform(top.id));  // the most likely token often wins, and its score rules most others out
  }

  int32_t run(SampleScratch& scratch) {
    const int64_t blocks = outline_count(view_.vocab);
    scratch.weights.resize(static_cast<size_t>(blocks));
    kernels_.exp_scaled(view_.maxima, blocks, static_cast<float>(max_), inverse(temperature_), scratch.weights.data());
    scratch.blocks.resize(kTogether);
    scratch.least.resize(kTogether);
    for (int64_t first = 0; first < blocks; first += kTogether) {
      run_blocks(first, std::min(blocks, first + kTogether), scratch);
    }
    return winner_;
  }

 private:
  static constexpr int64_t kTogether = 64;
  // Weights have a relative error far below the slack, and the least of them may have become 0.
  static double reach(float weight) { return weight * 1.001 + 1e-36; }

  void run_blocks(int64_t first, int64_t end, SampleScratch& scratch) {
    constexpr double kLeast = 0x1p-54;
    int64_t count = 0;
    for (int64_t block = first; block < end; ++block) {
      if (bar_ * kLeast > reach(scratch.weights[static_cast<size_t>(block)]) || view_.maxima[block] == -kInfinity) continue;
      scratch.blocks[static_cast<size_t>(count++)] = static_cast<int32_t>(block);
    }
    kernels_.least_noise(noise_.key, scratch.blocks.data(), count, scratch.least.data());
    for (int64_t i = 0; i < count; ++i) {
      const int32_t block = scratch.blocks[static_cast<size_t>(i)];
      const double limit = reach(scratch.weights[static_cast<size_t>(block)]);
      if (noise_uniform(scratch.least[static_cast<size_t>(i)]) * bar_ > limit) continue;
      const int64_t last = std::min(view_.vocab, (block + 1) * kOutline);
      for (int64_t id = block * kOutline; id < last; ++id) {
        const double v = noise_.uniform(static_cast<int32_t>(id));
        if (!(v * bar_ > limit) && view_.logits[id] != -kInfinity) enter(static_cast<int32_t>(id), v);
      }
    }
  }

  void enter(int32_t id, double v) {
    const double score = (view_.logits[id] - max_) / temperature_ - std::log(-std::log1p(-v));
    if (score < best_ || (score == best_ && id >= winner_)) return;
    best_ = score;
    winner_ = id;
    bar_ = std::exp(score);
  }

  const Kernels& kernels_;
  LogitView view_;
  double max_, temperature_;
  const Noise& noise_;
  double best_ = -kInfinity, bar_ = 0.0;
  int32_t winner_ = -1;
};

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

TokenLogprob token_logprob(const Kernels& kernels, const LogitView& view, int32_t token, int64_t top, SampleScratch& scratch) {
  const float maximum = greatest(kernels, view).logit;
  const double log_sum = maximum + std::log(kernels.sum_exp(view.logits, view.vocab, maximum, 1.0f));
  TokenLogprob out;
  out.token = token;
  out.logprob = static_cast<float>(view.logits[token] - log_sum);
  out.rank = count_better(view, token) + 1;
  best_ids(view, top, scratch.ids, scratch.work);
  for (const int32_t id : scratch.ids) out.top.emplace_back(id, static_cast<float>(view.logits[id] - log_sum));
  return out;
}

Sampled sample_token(const Kernels& kernels, const SampleInput& input, const Sampling& s, History& history,
                     SampleScratch& scratch) {
  Sampled out;
  LogitView view = input.view;
  Greatest top = greatest(kernels, view);
  if (!top.finite) return {-1, SampleError::invalid_logits, {}};
  Edits edits(view, scratch.edits);
  change_logits(view, s, history, edits);
  if (input.mask != nullptr) view = masked_copy(kernels, view, input.mask, scratch.logits, scratch.maxima);
  if (edits.any() || input.mask != nullptr) top = greatest(kernels, view);
  if (top.logit == -kInfinity) return {-1, SampleError::empty_mask, {}};
  if (s.temperature == 0.0) {
    out.token = top.id;
  } else if (top.logit == kInfinity) {  // penalties without measure: no order is left between what they overflow
    return {-1, SampleError::invalid_logits, {}};
  } else {
    const Noise noise(s.seed, s.sample, input.position);
    const bool filtered = Filter(kernels, view, top.logit, s, scratch).run();
    out.token = filtered ? race(view.logits, top.logit, s.temperature, noise, scratch.ids)
                         : WholeRace(kernels, view, top, s.temperature, noise).run(scratch);
  }
  edits.undo();
  if (s.logprobs >= 0) out.logprob = token_logprob(kernels, input.view, out.token, s.logprobs, scratch);
  return out;
}

}  // namespace penstock
