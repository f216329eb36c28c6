// Logits of one position under their outline, the greatest of each 32: what searches of a vocabulary read instead of the logits.
// Knows nothing about parameters or noise. Invariant: a search gives what it would give over all the logits; where every raw logit is
// finite, a maximum of the outline is that of its logits at any time.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "linear.h"

namespace penstock {

constexpr int64_t kOutline = 32;

inline int64_t outline_count(int64_t vocab) { return (vocab + kOutline - 1) / kOutline; }

struct LogitView {
  float* logits;  // [vocab]
  float* maxima;  // [outline_count(vocab)]; NaN where a raw logit is not finite
  int64_t vocab;
};

// Logits of many positions: [rows, vocab] and [rows, outline_count(vocab)].
struct LogitRows {
  float* logits;
  float* maxima;
  int64_t vocab;

  LogitView row(int64_t index) const { return {logits + index * vocab, maxima + index * outline_count(vocab), vocab}; }
};

// What becomes of the head's products: scale · x, then cap · tanh(x / cap) where cap is not 0.
struct LogitScale {
  float scale = 1.0f, cap = 0.0f;
};

// The vocabulary pass: `out` gets head · x and its outline, which is drawn while the logits are warm.
void head_rows(Pool& pool, const Kernels& kernels, const Matrix& head, const float* bias, Activations& x, LogitScale scale,
               const LogitRows& out);

// The greatest logit and the first id that has it, and whether all are finite.
struct Greatest {
  float logit;
  int32_t id;
  bool finite;
};
Greatest greatest(const Kernels& kernels, const LogitView& view);

// f(id) for every id, ascending, whose logit is finite and at least `floor`.
template <class F>
void each_at_least(const LogitView& view, float floor, F&& f) {
  constexpr float kLowest = -3.402823466e38f;  // of finite floats
  if (!(floor > kLowest)) floor = kLowest;
  const int64_t count = outline_count(view.vocab);
  for (int64_t block = 0; block < count; ++block) {
    if (!(view.maxima[block] >= floor)) continue;
    const int64_t end = view.vocab < (block + 1) * kOutline ? view.vocab : (block + 1) * kOutline;
    for (int64_t id = block * kOutline; id < end; ++id) {
      if (view.logits[id] >= floor) f(static_cast<int32_t>(id));
    }
  }
}

// Ids by descending logit, ties to the lower id.
struct Better {
  const float* logits;
  bool operator()(int32_t a, int32_t b) const { return logits[a] > logits[b] || (logits[a] == logits[b] && a < b); }
};

// The `count` best ids in order, into ids: fewer where fewer are not -inf. `work` is scratch.
void best_ids(const LogitView& view, int64_t count, std::vector<int32_t>& ids, std::vector<float>& work);

// All ids of at least `floor` and more than -inf in order, into ids.
void ids_from(const LogitView& view, float floor, std::vector<int32_t>& ids);

// How many ids come before `token` in that order.
int64_t count_better(const LogitView& view, int32_t token);

// Changes of a view, taken back in the end.
class Edits {
 public:
  struct Saved {
    int32_t id;
    float logit, maximum;
  };
  // `saved` is scratch.
  Edits(const LogitView& view, std::vector<Saved>& saved) : view_(view), saved_(saved) { saved_.clear(); }
  ~Edits() { undo(); }
  Edits(const Edits&) = delete;
  Edits& operator=(const Edits&) = delete;

  bool any() const { return !saved_.empty(); }
  void set(int32_t id, float logit);
  void undo();

 private:
  LogitView view_;
  std::vector<Saved>& saved_;
};

// A copy of the view in which what the mask forbids is -inf. mask: packed bits (1 = allowed), ceil(vocab / 8) bytes.
LogitView masked_copy(const Kernels& kernels, const LogitView& view, const uint8_t* mask, std::vector<float>& logits,
                      std::vector<float>& maxima);

}  // namespace penstock
