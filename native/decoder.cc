// The forward pass, layer by layer, over the pool.
#include "decoder.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "kernels.h"
#include "unpack.h"

namespace penstock {
namespace {

constexpr int64_t kQueryRows = 48;    // (query, head) rows of one piece of attention
constexpr int64_t kLogprobRows = 64;  // positions whose logits exist at once for prompt logprobs

// In place: each head's norm, or one over all heads together.
void norm_heads(const Kernels& kernels, const LayerFacts& f, const float* weight, float eps, float* heads, int64_t count) {
  if (weight == nullptr) return;
  if (f.qk_norm_all) return kernels.rms_norm(heads, weight, eps, heads, count * f.head_dim);
  for (int64_t h = 0; h < count; ++h) kernels.rms_norm(heads + h * f.head_dim, weight, eps, heads + h * f.head_dim, f.head_dim);
}

// NaN stays NaN.
void clip(float* x, int64_t n, float limit) {
  for (int64_t i = 0; i < n; ++i) x[i] = x[i] < -limit ? -limit : x[i] > limit ? limit : x[i];
}

void rotate_heads(const Kernels& kernels, const RopeTable& rope, int64_t position, float* heads, int64_t count, int64_t dim) {
  const int64_t at = position * rope.pairs;
  for (int64_t h = 0; h < count; ++h) kernels.rotate(heads + h * dim, rope.cos + at, rope.sin + at, rope.pairs, rope.interleaved);
}

}  // namespace

float* Decoder::Floats::need(int64_t count) {
  if (count > capacity) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(float) + 63) / 64 * 64;
    void* memory = std::aligned_alloc(64, bytes);
    if (memory == nullptr) throw std::bad_alloc();
    std::memset(memory, 0, bytes);
    data = {static_cast<float*>(memory), &std::free};
    capacity = count;
  }
  return data.get();
}

// --- Work over tokens -------------------------------------------------------------------------------------------------------------

// Adds to one row of x_ what is pending.
void Decoder::settle(int64_t row) {
  if (pending_.branch == nullptr) return;
  const int64_t n = model_.facts.hidden, at = row * n;
  const float* branch = pending_.branch + at;
  if (pending_.post_norm != nullptr) {
    kernels_.rms_norm(branch, pending_.post_norm, model_.facts.norm_eps, normed_.data.get() + at, n);
    branch = normed_.data.get() + at;
  }
  kernels_.add_scaled(x_.data.get() + at, branch, model_.facts.residual_scale, n);
}

// activations_ become the rows of x_, settled and normed (norm may be null).
void Decoder::read_rows(const float* norm) {
  const int64_t tokens = static_cast<int64_t>(batch_.size()), n = model_.facts.hidden;
  float* x = x_.data.get();
  float* normed = normed_.need(tokens * n);
  activations_.reset(norm != nullptr ? normed : x, n, tokens, n, [this, x, normed, n, norm](int64_t i) {
    settle(i);
    if (norm != nullptr) kernels_.rms_norm(x + i * n, norm, model_.facts.norm_eps, normed + i * n, n);
  });
}

// Several products of the same inputs as one piece of work.
void Decoder::project_all(std::initializer_list<std::pair<const Projection*, float*>> projections) {
  parts_.clear();
  for (const auto& [projection, out] : projections) {
    const Matrix& w = projection->matrix;
    parts_.push_back({&w, projection->bias, 0, activations_.rows(), out, w.n});
  }
  linear_parts(pool_, kernels_, parts_.data(), static_cast<int64_t>(parts_.size()), activations_);
}

void Decoder::project(const Projection& projection, float* out) { project_all({{&projection, out}}); }

// --- Layers -------------------------------------------------------------------------------------------------------------------------

void Decoder::embed() {
  const int64_t n = model_.facts.hidden;
  float* x = x_.need(static_cast<int64_t>(batch_.size()) * n);
  pending_ = {};
  over_tokens(n, [&](int64_t i) {
    unpack_row(model_.embed.matrix, batch_[static_cast<size_t>(i)].id, x + i * n);
    if (model_.facts.embed_scale != 1.0f) {
      for (int64_t d = 0; d < n; ++d) x[i * n + d] *= model_.facts.embed_scale;
    }
  });
}

void Decoder::attention_block(size_t layer) {
  const LayerFacts& f = model_.layers[layer];
  const LayerWeights& w = model_.weights[layer];
  const int64_t tokens = static_cast<int64_t>(batch_.size()), hidden = model_.facts.hidden;
  read_rows(w.attn_norm);
  project_all({{&w.q, q_.need(tokens * f.num_heads * f.head_dim)},
               {&w.k, k_.need(tokens * f.num_kv_heads * f.head_dim)},
               {&w.v, v_.need(tokens * f.num_kv_heads * f.head_dim)}});
  prepare_heads(layer);
  attend_all(layer);
  const int64_t width = f.num_heads * f.head_dim;
  activations_.reset(attended_.data.get(), width, tokens, width);
  project(w.o, branch_.need(tokens * hidden));
  pending_ = {branch_.data.get(), w.attn_post_norm};
}

// Head norms, limits, rotation, and the store of keys and values.
void Decoder::prepare_heads(size_t layer) {
  const LayerFacts& f = model_.layers[layer];
  const LayerWeights& w = model_.weights[layer];
  const KvLayer kv = kv_layer(layer);
  const int64_t dim = f.head_dim;
  const RopeTable* rope = f.rope < 0 ? nullptr : &model_.ropes[static_cast<size_t>(f.rope)];
  over_tokens((f.num_heads + 2 * f.num_kv_heads) * dim, [&](int64_t i) {
    const Token& token = batch_[static_cast<size_t>(i)];
    float* q = q_.data.get() + i * f.num_heads * dim;
    float* k = k_.data.get() + i * f.num_kv_heads * dim;
    float* v = v_.data.get() + i * f.num_kv_heads * dim;
    norm_heads(kernels_, f, w.q_norm, model_.facts.norm_eps, q, f.num_heads);
    norm_heads(kernels_, f, w.k_norm, model_.facts.norm_eps, k, f.num_kv_heads);
    if (f.qkv_clip > 0.0f) {
      clip(q, f.num_heads * dim, f.qkv_clip);
      clip(k, f.num_kv_heads * dim, f.qkv_clip);
      clip(v, f.num_kv_heads * dim, f.qkv_clip);
    }
    if (rope != nullptr) {
      rotate_heads(kernels_, *rope, token.position, q, f.num_heads, dim);
      rotate_heads(kernels_, *rope, token.position, k, f.num_kv_heads, dim);
    }
    store_kv(kv, table_of(token.slot, layer), token.position, k, v);
  });
}

// Fills items_: of each slot, head by head, so that a head's keys and values stay in cache, the deepest queries first, so that what is
// left to the end is small.
void Decoder::list_attention(int64_t num_kv_heads, int64_t block) {
  const int64_t tokens = static_cast<int64_t>(batch_.size());
  items_.clear();
  for (int64_t first = 0; first < tokens;) {
    const int32_t slot = batch_[static_cast<size_t>(first)].slot;
    int64_t end = first + 1;
    while (end < tokens && batch_[static_cast<size_t>(end)].slot == slot) ++end;
    for (int64_t h = 0; h < num_kv_heads; ++h) {
      for (int64_t last = end; last > first; last -= std::min(block, last - first)) {
        const int64_t begin = std::max(first, last - block);
        items_.push_back({slot, begin, last - begin, h});
      }
    }
    first = end;
  }
}

void Decoder::attend_all(size_t layer) {
  const LayerFacts& f = model_.layers[layer];
  const KvLayer kv = kv_layer(layer);
  const int64_t dim = f.head_dim, group = f.num_heads / f.num_kv_heads, width = f.num_heads * dim;
  const int64_t tokens = static_cast<int64_t>(batch_.size());
  const int64_t block = std::max<int64_t>(1, kQueryRows / group);
  list_attention(f.num_kv_heads, block);
  float* out = attended_.need(tokens * width);
  const int64_t scratch_floats = (attend_scratch(block * group, kv.padded) + 15) / 16 * 16;
  float* scratch = scratch_.need(scratch_floats * pool_.threads());
  pool_.each(static_cast<int64_t>(items_.size()), [&](int64_t index, int thread) {
    const WorkItem& item = items_[static_cast<size_t>(index)];
    const int64_t at = item.first_token * width + item.kv_head * group * dim;
    const float* sinks = model_.weights[layer].sinks;
    kernels_.attend({kv, item.kv_head, table_of(item.slot, layer), q_.data.get() + at, width, group,
                     batch_[static_cast<size_t>(item.first_token)].position, item.count, f.window, f.scale, f.softcap,
                     sinks == nullptr ? nullptr : sinks + item.kv_head * group, out + at, width,
                     scratch + thread * scratch_floats});
  });
}

void Decoder::mlp_block(size_t layer) {
  const LayerFacts& f = model_.layers[layer];
  const LayerWeights& w = model_.weights[layer];
  const int64_t tokens = static_cast<int64_t>(batch_.size()), hidden = model_.facts.hidden;
  read_rows(w.mlp_norm);
  float* out = branch_.need(tokens * hidden);
  if (f.num_experts > 0) {
    mixture(layer, out);
  } else {
    dense_mlp(f, w.mlp, f.intermediate, out);
  }
  pending_ = {out, w.mlp_post_norm};
}

// out: [tokens, hidden] of the inputs that activations_ holds.
void Decoder::dense_mlp(const LayerFacts& f, const GatedMlp& mlp, int64_t width, float* out) {
  const int64_t tokens = static_cast<int64_t>(batch_.size());
  float* gate = gate_.need(tokens * width);
  float* up = up_.need(tokens * width);
  project_all({{&mlp.gate, gate}, {&mlp.up, up}});
  activations_.reset(gate, width, tokens, width, [this, &f, gate, up, width](int64_t i) {
    kernels_.gated(gate + i * width, up + i * width, gate + i * width, width, static_cast<int32_t>(f.activation), f.clamp);
  });
  project(mlp.down, out);
}

// --- Outputs ------------------------------------------------------------------------------------------------------------------------

// Logits after the tokens at those batch indices, with their outlines; valid until the next call.
LogitRows Decoder::head_logits(const std::vector<int64_t>& rows) {
  const ModelFacts& f = model_.facts;
  const int64_t hidden = f.hidden, count = static_cast<int64_t>(rows.size());
  float* picked = hidden_rows_.need(count * hidden);
  over(count, hidden, [&](int64_t i) {
    const float* x = x_.data.get() + rows[static_cast<size_t>(i)] * hidden;
    kernels_.rms_norm(x, model_.final_norm, f.norm_eps, picked + i * hidden, hidden);
  });
  activations_.reset(picked, hidden, count, hidden);
  const LogitRows out{logits_.need(count * f.vocab), maxima_.need(count * outline_count(f.vocab)), f.vocab};
  head_rows(pool_, kernels_, model_.head.matrix, model_.head.bias, activations_, {f.logit_scale, f.logit_softcap}, out);
  return out;
}

void Decoder::gather_logits(const Step& step) {
  std::vector<int64_t> rows;
  logit_first_.clear();
  int64_t end = 0;
  for (const StepRow& row : step.rows) {
    end += row.count;
    logit_first_.push_back(static_cast<int64_t>(rows.size()));
    if (!row.sample) continue;
    for (int64_t i = end - row.num_drafts - 1; i < end; ++i) rows.push_back(i);
  }
  num_logits_ = static_cast<int64_t>(rows.size());
  if (num_logits_ > 0) head_logits(rows);
}

// Logprobs of prompt tokens, from the logits one position before each, a bounded number at a time.
void Decoder::prompt_logprobs(const Step& step) {
  int64_t batch_first = 0;
  for (size_t r = 0; r < step.rows.size(); batch_first += step.rows[r].count, ++r) {
    const StepRow& row = step.rows[r];
    if (row.output != OutputKind::prompt_logprobs) continue;
    RowOutput& output = outputs_[r];
    output.prompt_logprobs.resize(static_cast<size_t>(row.logprobs_count));
    const History& history = slots_[static_cast<size_t>(row.slot)].history;
    for (int64_t done = 0; done < row.logprobs_count; done += kLogprobRows) {
      const int64_t count = std::min(kLogprobRows, row.logprobs_count - done);
      std::vector<int64_t> rows;
      for (int64_t i = 0; i < count; ++i) rows.push_back(batch_first + row.logprobs_first + done + i - 1 - row.start);
      const LogitRows logits = head_logits(rows);
      std::atomic<bool> finite{true};
      pool_.each(count, [&](int64_t i, int thread) {
        const LogitView view = logits.row(i);
        if (!greatest(kernels_, view).finite) {
          finite = false;
          return;
        }
        const int32_t token = history.at(row.logprobs_first + done + i);
        output.prompt_logprobs[static_cast<size_t>(done + i)] =
            token_logprob(kernels_, view, token, row.logprobs_top, sample_scratch_[static_cast<size_t>(thread)]);
      });
      if (!finite) output.error = SampleError::invalid_logits;
    }
  }
}

void Decoder::forward(Step& step) {
  apply(step);
  if (!batch_.empty()) {
    embed();
    for (size_t layer = 0; layer < model_.layers.size(); ++layer) {
      if (cancelled_.load(std::memory_order_relaxed)) throw Cancelled("the step was cancelled");
      attention_block(layer);
      mlp_block(layer);
    }
    over_tokens(model_.facts.hidden, [&](int64_t i) { settle(i); });
  }
  outputs_.assign(step.rows.size(), {});
  prompt_logprobs(step);
  gather_logits(step);
}

}  // namespace penstock
