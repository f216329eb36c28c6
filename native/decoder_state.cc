// What a decoder keeps between steps: slots, page tables, the queue of steps, and sampling of the step that is done.
#include <algorithm>
#include <chrono>
#include <cstring>

#include "decoder.h"
#include "kernels.h"

namespace penstock {
namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

}  // namespace

Decoder::Slot& Decoder::slot_at(int32_t slot) {
  require(slot >= 0 && slot < limits_.max_slots, "slot out of range");
  return slots_[static_cast<size_t>(slot)];
}

void Decoder::open_slot(OpenedSlot& opened) {
  Slot& slot = slot_at(opened.slot);
  require(!slot.open, "slot is open already");
  require(opened.num_prompt >= 0 && opened.num_prompt <= static_cast<int64_t>(opened.tokens.size()), "num_prompt out of range");
  const auto known = [&](int32_t id) { return id >= 0 && id < model_.facts.vocab; };
  require(std::all_of(opened.tokens.begin(), opened.tokens.end(), known), "token id out of range");
  auto& sampling = opened.sampling;
  require(std::all_of(sampling.bias.begin(), sampling.bias.end(), [&](const auto& b) { return known(b.first); }),
          "logit_bias id out of range");
  // Stop ids beyond the vocabulary can never be sampled: nothing to mask.
  std::erase_if(sampling.end_ids, [&](int32_t id) { return !known(id); });
  slot.open = true;
  slot.history.reset(std::move(opened.tokens), opened.num_prompt);
  slot.sampling = std::move(sampling);
  slot.tables.resize(groups_.size());
  for (auto& table : slot.tables) table.clear();
}

// Appends the row's pages to its slot's tables: every page that the row will read or write must be there.
void Decoder::take_pages(const Step& step, const StepRow& row, Slot& slot) {
  const int64_t end = row.start + row.count;
  require(row.start >= 0 && row.count >= 1 && end <= model_.facts.max_tokens, "row beyond max_model_tokens");
  require(row.num_spans == num_groups(), "a row has pages for another number of KV groups");
  for (size_t g = 0; g < groups_.size(); ++g) {
    const Group& group = groups_[g];
    const PageSpan& span = step.spans[static_cast<size_t>(row.first_span) + g];
    std::vector<int32_t>& table = slot.tables[g];
    for (int64_t i = 0; i < span.count; ++i) {
      const int32_t page = step.pages[static_cast<size_t>(span.first + i)];
      require(page >= -1 && page < group.pages, "page out of range");
      table.push_back(page);
    }
    require(end <= static_cast<int64_t>(table.size()) * limits_.page_tokens, "row beyond its pages");
    const int64_t first = group.window > 0 ? std::max<int64_t>(0, row.start - group.window + 1) : 0;
    for (int64_t page = first / limits_.page_tokens; page * limits_.page_tokens < end; ++page) {
      require(table[static_cast<size_t>(page)] >= 0, "a page that the row reads was freed");
    }
  }
}

// Appends the row's pages and tokens to its slot and to the batch.
void Decoder::take_row(const Step& step, const StepRow& row) {
  Slot& slot = slot_at(row.slot);
  require(slot.open, "slot is not open");
  take_pages(step, row, slot);
  const int64_t end = row.start + row.count;
  require(row.num_drafts >= 0 && row.num_drafts < row.count, "num_drafts out of range");
  const bool logprobs = row.output == OutputKind::prompt_logprobs;
  for (int64_t i = 0; i < row.count; ++i) {
    const int64_t position = row.start + i;
    int32_t id = step.tokens[static_cast<size_t>(row.first + i)];
    if (id == -1) {
      require(position + 1 == slot.history.size(), "a future token is not the slot's last sample");
      id = slot.history.at(position);
    }
    require(id >= 0 && id < model_.facts.vocab, "token id out of range");
    if (i < row.count - row.num_drafts) {
      require(position <= slot.history.size(), "a row skips positions");
      if (position == slot.history.size() || slot.history.at(position) != id) slot.history.put(position, id);
    }
    batch_.push_back({id, row.slot, position});
  }
  require(!row.sample || end - row.num_drafts == slot.history.size(), "a row samples before its last token");
  if (logprobs) {
    require(row.logprobs_first > row.start && row.logprobs_count >= 0 && row.logprobs_top >= 0 &&
                row.logprobs_first + row.logprobs_count <= std::min(end + 1, slot.history.size()),
            "prompt logprobs out of range");
  }
}

void Decoder::apply(Step& step) {
  batch_.clear();
  for (const int32_t slot : step.released) slot_at(slot).open = false;
  for (OpenedSlot& opened : step.opened) open_slot(opened);
  require(static_cast<int64_t>(step.tokens.size()) <= limits_.max_step_tokens, "more tokens than max_step_tokens");
  require(groups_[0].memory != nullptr, "no pages are allocated");
  std::vector<bool> seen(slots_.size());
  for (const StepRow& row : step.rows) {
    take_row(step, row);
    require(!seen[static_cast<size_t>(row.slot)], "a slot has two rows in one step");
    seen[static_cast<size_t>(row.slot)] = true;
  }
  for (const StepCopy& copy : step.copies) copy_page(copy);
}

// --- Steps in order ------------------------------------------------------------------------------------------------------------------

void Decoder::drive() {
  pool_.bind_caller();
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stopping_ || (!queue_.empty() && !front_done_); });
    if (stopping_) return;
    Step& step = *queue_.front();
    lock.unlock();
    std::exception_ptr failure;
    const auto started = Clock::now();
    try {
      forward(step);
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    failure_ = failure;
    forward_seconds_ = since(started);
    front_done_ = true;
    changed_.notify_all();
  }
}

void Decoder::submit(std::unique_ptr<Step> step) {
  {
    std::lock_guard lock(mutex_);
    queue_.push_back(std::move(step));
  }
  changed_.notify_all();
}

std::vector<RowOutput> Decoder::finish(const std::vector<MaskRef>& masks) {
  std::unique_lock lock(mutex_);
  require(!queue_.empty(), "no step was submitted");
  changed_.wait(lock, [&] { return front_done_; });
  const std::exception_ptr failure = failure_;
  const Step& step = *queue_.front();
  lock.unlock();
  std::vector<RowOutput> results;
  const auto started = Clock::now();
  if (failure == nullptr) {
    std::vector<const uint8_t*> mask_of(slots_.size());
    for (const MaskRef& mask : masks) {
      if (mask.slot >= 0 && mask.slot < limits_.max_slots) mask_of[static_cast<size_t>(mask.slot)] = mask.bits;
    }
    pool_.each(static_cast<int64_t>(step.rows.size()), [&](int64_t index, int thread) {
      const auto r = static_cast<size_t>(index);
      const uint8_t* mask = mask_of[static_cast<size_t>(step.rows[r].slot)];
      outputs_[r] = sample_row(step, r, mask, sample_scratch_[static_cast<size_t>(thread)]);
    });
    results = std::move(outputs_);
  }
  lock.lock();
  seconds_ = forward_seconds_ + since(started);
  queue_.pop_front();
  front_done_ = false;
  failure_ = nullptr;
  lock.unlock();
  changed_.notify_all();
  if (failure != nullptr) std::rethrow_exception(failure);
  return results;
}

std::vector<float> Decoder::peek_logits() {
  std::unique_lock lock(mutex_);
  require(!queue_.empty(), "no step was submitted");
  changed_.wait(lock, [&] { return front_done_; });
  if (failure_ != nullptr) std::rethrow_exception(failure_);
  const float* logits = logits_.data.get();
  return {logits, logits + num_logits_ * model_.facts.vocab};
}

void Decoder::cancel() { cancelled_ = true; }

// Samples after each draft until one is not what would have been sampled.
RowOutput Decoder::sample_row(const Step& step, size_t index, const uint8_t* mask, SampleScratch& scratch) {
  const StepRow& row = step.rows[index];
  RowOutput out = std::move(outputs_[index]);
  if (!row.sample || out.error != SampleError::none) return out;
  Slot& slot = slots_[static_cast<size_t>(row.slot)];
  const int64_t last = row.start + row.count - row.num_drafts;  // position of the first sampled token
  for (int64_t i = 0; i <= row.num_drafts; ++i) {
    Sampled sampled =
        sample_token(kernels_, {logit_rows().row(logit_first_[index] + i), last + i, mask}, slot.sampling, slot.history, scratch);
    out.error = sampled.error;
    if (out.error != SampleError::none) break;
    const int32_t token = sampled.token;
    out.tokens.push_back(token);
    if (slot.sampling.logprobs >= 0) out.logprobs.push_back(std::move(sampled.logprob));
    slot.history.push(token);
    if (i < row.num_drafts && step.tokens[static_cast<size_t>(row.first + row.count - row.num_drafts + i)] != token) break;
  }
  return out;
}

}  // namespace penstock
