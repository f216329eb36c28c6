// Outlines of logits: drawn under the vocabulary pass, searched, changed.
#include "sampler_view.h"

#include <algorithm>
#include <atomic>
#include <limits>

#include "kernels.h"

namespace penstock {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kWindow = 64;  // best ids kept in order while a vocabulary is read; more are selected afterwards

float greatest_of(const float* x, int64_t count) {
  float best = -kInfinity;
  for (int64_t i = 0; i < count; ++i) best = x[i] > best ? x[i] : best;
  return best;
}

// A logit that at least `count` ids reach: as many groups of blocks have a maximum of at least that. `count` is at most the blocks'.
float reached_by(const LogitView& view, int64_t count, std::vector<float>& work) {
  const int64_t blocks = outline_count(view.vocab), group = std::max<int64_t>(1, blocks / (4 * count));
  work.clear();
  for (int64_t first = 0; first < blocks; first += group) {
    work.push_back(greatest_of(view.maxima + first, std::min(group, blocks - first)));
  }
  const auto place = work.begin() + (count - 1);
  std::nth_element(work.begin(), place, work.end(), [](float a, float b) { return a > b; });
  return *place;
}

void best_few(const LogitView& view, int64_t count, float floor, std::vector<int32_t>& ids) {
  const Better better{view.logits};
  each_at_least(view, floor, [&](int32_t id) {
    if (static_cast<int64_t>(ids.size()) == count) {
      if (!better(id, ids.back())) return;
      ids.pop_back();
    }
    ids.insert(std::upper_bound(ids.begin(), ids.end(), id, better), id);
  });
}

void best_many(const LogitView& view, int64_t count, float floor, std::vector<int32_t>& ids) {
  const Better better{view.logits};
  each_at_least(view, floor, [&](int32_t id) { ids.push_back(id); });
  if (count < static_cast<int64_t>(ids.size())) {
    std::nth_element(ids.begin(), ids.begin() + count, ids.end(), better);
    ids.resize(static_cast<size_t>(count));
  }
  std::sort(ids.begin(), ids.end(), better);
}

// Draws outlines under a vocabulary pass, a run of channels at a time: whoever computes the last logits of a run finds most of them in
// its second-level cache. A tile at a time costs three times as much.
class HeadOutline {
 public:
  HeadOutline(const Kernels& kernels, LogitScale scale, const LogitRows& out, int64_t rows)
      : kernels_(kernels),
        scale_(scale),
        out_(out),
        rows_(rows),
        run_(kOutline * std::clamp<int64_t>(kWarmBlocks / std::max<int64_t>(1, rows), kLeastRun, kMostRun)),
        done_(static_cast<size_t>((out.vocab + run_ - 1) / run_)) {}

  void take(int64_t rows, int64_t channel, int64_t channels) {
    for (const int64_t end = channel + channels; channel < end;) {
      const int64_t index = channel / run_, first = index * run_, count = std::min(run_, out_.vocab - first);
      const int64_t logits = rows * (std::min(end, first + count) - channel);
      // Others' logits are seen by whoever adds last: an addition releases what came before it and acquires what the others released.
      const int64_t before = done_[static_cast<size_t>(index)].fetch_add(logits, std::memory_order_acq_rel);
      if (before + logits == rows_ * count) draw(first, count);
      channel = first + count;
    }
  }

 private:
  static constexpr int64_t kWarmBlocks = 2048, kLeastRun = 8, kMostRun = 64;  // in blocks of 128 bytes

  void draw(int64_t first, int64_t count) const {
    const int64_t blocks = outline_count(out_.vocab);
    float* logits = out_.logits + first;
    if (scale_.scale != 1.0f || scale_.cap != 0.0f) {
      for (int64_t r = 0; r < rows_; ++r) kernels_.cap_logits(logits + r * out_.vocab, count, scale_.scale, scale_.cap);
    }
    kernels_.outline(logits, out_.vocab, rows_, count, out_.maxima + first / kOutline, blocks);
  }

  const Kernels& kernels_;
  LogitScale scale_;
  LogitRows out_;
  int64_t rows_, run_;                      // logits of a row in one run
  std::vector<std::atomic<int64_t>> done_;  // logits computed of each run
};

}  // namespace

void head_rows(Pool& pool, const Kernels& kernels, const Matrix& head, const float* bias, Activations& x, LogitScale scale,
               const LogitRows& out) {
  HeadOutline outline(kernels, scale, out, x.rows());
  const LinearSink sink{[](void* context, int64_t, int64_t rows, int64_t channel, int64_t channels) {
                          static_cast<HeadOutline*>(context)->take(rows, channel, channels);
                        },
                        &outline};
  linear(pool, kernels, head, x, bias, out.logits, out.vocab, &sink);
}

Greatest greatest(const Kernels& kernels, const LogitView& view) {
  const LogitFacts facts = kernels.scan_logits(view.maxima, outline_count(view.vocab));
  int64_t id = facts.argmax * kOutline;
  while (id < view.vocab - 1 && view.logits[id] != facts.maximum) ++id;
  return {facts.maximum, static_cast<int32_t>(id), facts.finite != 0};
}

void best_ids(const LogitView& view, int64_t count, std::vector<int32_t>& ids, std::vector<float>& work) {
  ids.clear();
  count = std::min(count, view.vocab);
  if (count <= 0) return;
  const float floor = count <= outline_count(view.vocab) ? reached_by(view, count, work) : -kInfinity;
  if (count <= kWindow) best_few(view, count, floor, ids);
  else best_many(view, count, floor, ids);
}

void ids_from(const LogitView& view, float floor, std::vector<int32_t>& ids) {
  ids.clear();
  best_many(view, view.vocab, floor, ids);
}

int64_t count_better(const LogitView& view, int32_t token) {
  const float own = view.logits[token];
  int64_t better = 0;
  each_at_least(view, own, [&](int32_t id) { better += view.logits[id] > own || id < token; });
  return better;
}

void Edits::set(int32_t id, float logit) {
  float& maximum = view_.maxima[id / kOutline];
  const float old = view_.logits[id];
  saved_.push_back({id, old, maximum});
  view_.logits[id] = logit;
  if (logit >= maximum) {
    maximum = logit;
  } else if (old == maximum) {
    const int64_t first = id / kOutline * kOutline;
    maximum = greatest_of(view_.logits + first, std::min(kOutline, view_.vocab - first));
  }
}

void Edits::undo() {
  for (; !saved_.empty(); saved_.pop_back()) {
    const Saved& saved = saved_.back();
    view_.logits[saved.id] = saved.logit;
    view_.maxima[saved.id / kOutline] = saved.maximum;
  }
}

LogitView masked_copy(const Kernels& kernels, const LogitView& view, const uint8_t* mask, std::vector<float>& logits,
                      std::vector<float>& maxima) {
  logits.resize(static_cast<size_t>(view.vocab));
  maxima.resize(static_cast<size_t>(outline_count(view.vocab)));
  kernels.mask_logits(view.logits, mask, view.vocab, logits.data(), maxima.data());
  return {logits.data(), maxima.data(), view.vocab};
}

}  // namespace penstock
