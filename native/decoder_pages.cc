// Where a decoder's keys and values lie: one arena of pages for each KV group, copies between pages, pages in and out.
// Knows nothing about sequences or steps. Invariant: a group's page number means the same place in all layers of the group, and nothing
// in any other.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "decoder.h"
#include "placement.h"

namespace penstock {
namespace {

int64_t padded(int64_t dim) { return (dim + kTile - 1) / kTile * kTile; }

}  // namespace

Decoder::Decoder(Pool& pool, const Kernels& kernels, Model model, Limits limits)
    : pool_(pool), kernels_(kernels), model_(std::move(model)), limits_(limits), slots_(static_cast<size_t>(limits.max_slots)) {
  make_groups();
  sample_scratch_.resize(static_cast<size_t>(pool_.threads()));
  driver_ = std::thread([this] { drive(); });
}

Decoder::~Decoder() {
  cancel();
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  driver_.join();
  free_pages();
}

void Decoder::make_groups() {
  for (size_t layer = 0; layer < model_.layers.size(); ++layer) {
    const LayerFacts& f = model_.layers[layer];
    const auto index = static_cast<size_t>(f.kv_group);
    if (index >= groups_.size()) groups_.resize(index + 1);
    Group& group = groups_[index];
    const bool all = f.window == 0 || (!group.layers.empty() && group.window == 0);
    group.window = all ? 0 : std::max(group.window, f.window);
    group.layers.push_back(layer);
    layer_offset_.push_back(group.bytes_per_page);
    group.bytes_per_page += kv_layer(layer).page_bytes();
  }
}

int64_t Decoder::bytes_per_page(int64_t group) const {
  if (group < 0 || group >= num_groups()) throw std::invalid_argument("KV group out of range");
  return groups_[static_cast<size_t>(group)].bytes_per_page;
}

void Decoder::free_pages() {
  for (Group& group : groups_) {
    if (group.memory != nullptr) ::munmap(group.memory, static_cast<size_t>(group.pages * group.bytes_per_page));
    group.memory = nullptr;
  }
}

void Decoder::allocate(const std::vector<int64_t>& pages) {
  if (groups_[0].memory != nullptr) throw std::logic_error("pages are allocated already");
  if (pages.size() != groups_.size()) throw std::invalid_argument("pages are given for another number of KV groups");
  std::vector<size_t> bytes;
  for (size_t g = 0; g < groups_.size(); ++g) {
    int64_t size = 0;
    if (pages[g] < 1 || pages[g] > INT32_MAX || __builtin_mul_overflow(pages[g], groups_[g].bytes_per_page, &size)) {
      throw std::invalid_argument("pages out of range");
    }
    bytes.push_back(static_cast<size_t>(size));
  }
  for (size_t g = 0; g < groups_.size(); ++g) {
    void* memory = ::mmap(nullptr, bytes[g], PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
      free_pages();
      throw std::bad_alloc();
    }
#ifdef MADV_HUGEPAGE
    ::madvise(memory, bytes[g], MADV_HUGEPAGE);
#endif
    if (pool_.nodes() > 1 && !interleave(memory, bytes[g], pool_.node_ids()))
      pool_.note_refusal();  // any thread may read any page
    groups_[g].memory = static_cast<uint8_t*>(memory);
    groups_[g].pages = pages[g];
  }
}

KvLayer Decoder::kv_layer(size_t layer) const {
  const LayerFacts& f = model_.layers[layer];
  KvLayer kv{nullptr, limits_.kv_type, f.num_kv_heads, f.head_dim, padded(f.head_dim), limits_.page_tokens};
  const Group& group = groups_[static_cast<size_t>(f.kv_group)];
  if (group.memory != nullptr) kv.base = group.memory + layer_offset_[layer] * group.pages;
  return kv;
}

const int32_t* Decoder::table_of(int32_t slot, size_t layer) const {
  return slots_[static_cast<size_t>(slot)].tables[static_cast<size_t>(model_.layers[layer].kv_group)].data();
}

Decoder::Group& Decoder::group_of_page(int64_t group, int64_t page) {
  if (group < 0 || group >= num_groups()) throw std::invalid_argument("KV group out of range");
  Group& found = groups_[static_cast<size_t>(group)];
  if (page < 0 || page >= found.pages) throw std::invalid_argument("page out of range");
  return found;
}

void Decoder::copy_page(const StepCopy& copy) {
  group_of_page(copy.group, copy.target);
  for (const size_t layer : group_of_page(copy.group, copy.source).layers) {
    const KvLayer kv = kv_layer(layer);
    std::memcpy(kv.base + copy.target * kv.page_bytes(), kv.base + copy.source * kv.page_bytes(),
                static_cast<size_t>(kv.page_bytes()));
  }
}

Decoder::Group& Decoder::idle_page(int64_t group, int64_t page) {
  const std::lock_guard lock(mutex_);
  if (!queue_.empty()) throw std::invalid_argument("a step is under way");
  return group_of_page(group, page);
}

void Decoder::read_page(int64_t group, int64_t page, uint8_t* out) {
  for (const size_t layer : idle_page(group, page).layers) {
    const KvLayer kv = kv_layer(layer);
    std::memcpy(out + layer_offset_[layer], kv.base + page * kv.page_bytes(), static_cast<size_t>(kv.page_bytes()));
  }
}

void Decoder::write_page(int64_t group, int64_t page, const uint8_t* bytes) {
  for (const size_t layer : idle_page(group, page).layers) {
    const KvLayer kv = kv_layer(layer);
    std::memcpy(kv.base + page * kv.page_bytes(), bytes + layer_offset_[layer], static_cast<size_t>(kv.page_bytes()));
  }
}

}  // namespace penstock
