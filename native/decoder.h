// A decoder-only transformer over a ragged batch. Knows nothing about files, requests, Python or clocks.
// Invariant: what a row computes depends on its slot's tokens and pages alone, never on the other rows of its step.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "attention.h"
#include "counted.h"
#include "linear.h"
#include "sampler.h"

namespace penstock {

enum class Activation : int32_t { silu = 0, gelu_tanh = 1, gelu = 2, swiglu_oai = 3 };

// Facts of one layer; see penstock.model.spec.
struct LayerFacts {
  int64_t num_heads = 0, num_kv_heads = 0, head_dim = 0, intermediate = 0;
  int64_t window = 0;    // 0 is all
  int32_t rope = -1;     // index of a rope table, -1 is none
  int32_t kv_group = 0;  // layers of a group share one page table a sequence
  Activation activation = Activation::silu;
  float scale = 1.0f, softcap = 0.0f, clamp = 0.0f;
  float qkv_clip = 0.0f;     // 0 is none
  bool qk_norm_all = false;  // the norms of q and k are over all heads of a token together, else over each head
  int64_t num_experts = 0, experts_per_token = 0,
          shared_intermediate = 0;  // 0 experts: a dense layer; intermediate is one expert's
  bool norm_topk = false;
};

struct RopeTable {
  const float* cos = nullptr;  // [max_tokens, pairs] f32
  const float* sin = nullptr;
  int64_t pairs = 0;
  bool interleaved = false;
};

// A projection; n == 0 is absent.
struct Projection {
  Matrix matrix{};
  const float* bias = nullptr;
};

struct GatedMlp {
  Projection gate, up, down;
};

struct LayerWeights {
  Projection q, k, v, o, router, shared_router;
  GatedMlp mlp, shared;
  std::vector<GatedMlp> experts;
  const float *attn_norm = nullptr, *mlp_norm = nullptr, *attn_post_norm = nullptr, *mlp_post_norm = nullptr;
  const float *q_norm = nullptr, *k_norm = nullptr, *sinks = nullptr;
};

struct ModelFacts {
  int64_t hidden = 0, vocab = 0, max_tokens = 0;
  float norm_eps = 1e-5f, embed_scale = 1.0f, residual_scale = 1.0f, logit_scale = 1.0f, logit_softcap = 0.0f;
};

// Weights and facts; all memory belongs to the caller and outlives the decoder.
struct Model {
  ModelFacts facts;
  std::vector<LayerFacts> layers;
  std::vector<LayerWeights> weights;
  std::vector<RopeTable> ropes;
  Projection embed, head;
  const float* final_norm = nullptr;
};

// Bounds of a decoder's state, checked before anything is computed.
struct Limits {
  int64_t max_slots = 0, max_step_tokens = 0, page_tokens = 0;
  KvType kv_type = KvType::f32;
};

enum class OutputKind : int32_t { none = 0, sample = 1, prompt_logprobs = 2 };

struct OpenedSlot {
  int32_t slot = 0;
  std::vector<int32_t> tokens;
  int64_t num_prompt = 0;
  Sampling sampling;
};

struct StepRow {
  int32_t slot = 0;
  int64_t start = 0;
  int64_t first = 0, count = 0;           // its tokens within Step::tokens; a future token is -1
  int64_t first_span = 0, num_spans = 0;  // within Step::spans, one a KV group
  int64_t num_drafts = 0;
  OutputKind output = OutputKind::none;
  int64_t logprobs_first = 0, logprobs_count = 0, logprobs_top = 0;
  bool sample = false;
};

// New pages of one row in one KV group, within Step::pages.
struct PageSpan {
  int64_t first = 0, count = 0;
};

struct StepCopy {
  int32_t group = 0, source = 0, target = 0;
};

struct Step {
  int64_t number = 0;
  std::vector<int32_t> released;
  std::vector<OpenedSlot> opened;
  std::vector<StepCopy> copies;
  std::vector<StepRow> rows;
  std::vector<PageSpan> spans;
  std::vector<int32_t> tokens, pages;
};

struct RowOutput {
  std::vector<int32_t> tokens;
  std::vector<TokenLogprob> logprobs, prompt_logprobs;
  SampleError error = SampleError::none;
};

struct MaskRef {
  int32_t slot;
  const uint8_t* bits;
};

// The step was given up because cancel() was called.
struct Cancelled : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Decoder {
 public:
  Decoder(Pool& pool, const Kernels& kernels, Model model, Limits limits);
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  int64_t num_groups() const { return static_cast<int64_t>(groups_.size()); }
  int64_t bytes_per_page(int64_t group) const;
  int64_t vocab() const { return model_.facts.vocab; }
  // Takes zeroed memory for that many pages of each group; std::bad_alloc where there is none. Once.
  void allocate(const std::vector<int64_t>& pages);

  // Copies one page of all layers of a group out or in; bytes_per_page(group) bytes. Only while no step is under way.
  void read_page(int64_t group, int64_t page, uint8_t* out);
  void write_page(int64_t group, int64_t page, const uint8_t* bytes);

  // Queues a step; its forward starts when the step before it has finished. Returns at once.
  void submit(std::unique_ptr<Step> step);
  // Waits for the oldest step's forward and samples. Throws what the forward threw.
  std::vector<RowOutput> finish(const std::vector<MaskRef>& masks);
  // Logits of the oldest step's sampling positions, in row order, once its forward is done. [count, vocab] f32
  std::vector<float> peek_logits();
  // Time that the step last finished took, forward and sampling, without waits between them.
  double seconds() const { return seconds_; }
  // Gives up what runs at the next layer; every later finish throws Cancelled.
  void cancel();

 private:
  struct Slot {
    bool open = false;
    History history;
    Sampling sampling;
    std::vector<std::vector<int32_t>> tables;  // of each KV group
  };
  struct Group {
    std::vector<size_t> layers;
    int64_t bytes_per_page = 0;
    int64_t window = 0;  // the longest of its layers, 0 where one sees everything
    int64_t pages = 0;
    uint8_t* memory = nullptr;
  };
  struct Token {
    int32_t id, slot;
    int64_t position;
  };
  struct WorkItem {
    int32_t slot;
    int64_t first_token, count, kv_head;
  };
  // Which experts the tokens of a mixture take, and the (token, rank) pairs of some tokens in the order of their experts.
  struct Routing {
    std::vector<int32_t> expert;  // [tokens, experts_per_token] by rank
    std::vector<float> weight;    // the same
    std::vector<int64_t> first;   // [num_experts + 1] first pair of each expert
    std::vector<int32_t> token;   // [pairs] token of the batch
    std::vector<int32_t> pair;    // [chunk's tokens, experts_per_token] → pair
  };
  // What a block adds to x_, which is left to the next reader of each row: its output, and the norm that this passes first or null.
  struct Pending {
    const float *branch = nullptr, *post_norm = nullptr;
  };
  // Grows, never shrinks; 64-byte aligned.
  struct Floats {
    std::unique_ptr<float, void (*)(void*)> data{nullptr, nullptr};
    int64_t capacity = 0;
    float* need(int64_t count);
  };

  void drive();
  void forward(Step& step);
  void apply(Step& step);
  void open_slot(OpenedSlot& opened);
  void take_row(const Step& step, const StepRow& row);
  void take_pages(const Step& step, const StepRow& row, Slot& slot);
  Slot& slot_at(int32_t slot);
  void copy_page(const StepCopy& copy);
  Group& group_of_page(int64_t group, int64_t page);
  Group& idle_page(int64_t group, int64_t page);
  const int32_t* table_of(int32_t slot, size_t layer) const;
  void make_groups();
  void free_pages();
  void embed();
  void attention_block(size_t layer);
  void prepare_heads(size_t layer);
  void list_attention(int64_t num_kv_heads, int64_t block);
  void attend_all(size_t layer);
  void mlp_block(size_t layer);
  void dense_mlp(const LayerFacts& facts, const GatedMlp& mlp, int64_t width, float* out);
  void mixture(size_t layer, float* out);
  void route(const LayerFacts& facts, float* logits);
  void group_pairs(const LayerFacts& facts, int64_t first_token, int64_t count);
  void run_experts(size_t layer, float* out);
  void add_shared(size_t layer, float* out);
  void settle(int64_t row);
  void read_rows(const float* norm);
  void project_all(std::initializer_list<std::pair<const Projection*, float*>> projections);
  void project(const Projection& projection, float* out);
  LogitRows head_logits(const std::vector<int64_t>& rows);
  void gather_logits(const Step& step);
  void prompt_logprobs(const Step& step);
  RowOutput sample_row(const Step& step, size_t index, const uint8_t* mask, SampleScratch& scratch);
  LogitRows logit_rows() const { return {logits_.data.get(), maxima_.data.get(), model_.facts.vocab}; }
  KvLayer kv_layer(size_t layer) const;
  // body(i) for i in [0, count), each worth about `work` floats; short work stays on this thread.
  template <class F>
  void over(int64_t count, int64_t work, F&& body);
  template <class F>
  void over_tokens(int64_t work, F&& body) {
    over(static_cast<int64_t>(batch_.size()), work, body);
  }

  Pool& pool_;
  const Kernels& kernels_;
  Model model_;
  Limits limits_;
  std::vector<Slot> slots_;
  std::vector<Group> groups_;
  std::vector<int64_t> layer_offset_;  // bytes of a page before each layer, within its group

  // Of the step under way.
  std::vector<Token> batch_;
  std::vector<WorkItem> items_;
  std::vector<int64_t> logit_first_;  // first logits row of each step row
  std::vector<RowOutput> outputs_;
  Floats x_, normed_, q_, k_, v_, attended_, gate_, up_, branch_, hidden_rows_, logits_, maxima_, scratch_;
  int64_t num_logits_ = 0;
  Floats router_, experts_out_;
  Activations activations_, routed_;
  Routing routing_;
  std::vector<LinearPart> parts_;
  std::vector<SampleScratch> sample_scratch_;  // of each thread
  Pending pending_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::unique_ptr<Step>> queue_;  // front: under way or done
  bool front_done_ = false, stopping_ = false;
  std::exception_ptr failure_;
  double forward_seconds_ = 0.0, seconds_ = 0.0;
  std::atomic<bool> cancelled_{false};
  std::thread driver_;
  Counted<Decoder> counted_;
};

template <class F>
void Decoder::over(int64_t count, int64_t work, F&& body) {
  constexpr int64_t kInlineWork = 16384;  // floats of work below which dealing out costs more than it gains
  if (count * work <= kInlineWork || count == 1) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  const int64_t block = kInlineWork / 2 > work ? kInlineWork / 2 / (work > 0 ? work : 1) : 1;
  pool_.each((count + block - 1) / block, [&](int64_t index, int) {
    const int64_t end = count < (index + 1) * block ? count : (index + 1) * block;
    for (int64_t i = index * block; i < end; ++i) body(i);
  });
}

}  // namespace penstock
