// Thread pool: one generation of work at a time. Knows nothing about what the work is.
// Invariant: the caller never waits for a thread that has not joined; a worker touches a generation's fields only between joining
// (active + 1, then seeing it open) and leaving (active - 1).
#include "pool.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "placement.h"

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace penstock {
namespace {

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

int64_t process_id() {
#if defined(__unix__) || defined(__APPLE__)
  return static_cast<int64_t>(getpid());
#else
  return 0;
#endif
}

constexpr int kMaxSpins = 20'000;
constexpr int kMinSpins = 64;

struct alignas(64) Share {
  std::atomic<int64_t> next{0};
  int64_t end = 0;
};

}  // namespace

struct Pool::State {
  State(std::vector<PoolNode> all, int count)
      : threads(count), nodes(std::move(all)), shares(new Share[static_cast<size_t>(count)]), owner(process_id()) {
    for (size_t n = 0; n < nodes.size(); ++n) {
      first.push_back(static_cast<int>(home.size()));
      home.insert(home.end(), static_cast<size_t>(nodes[n].threads), n);
    }
    first.push_back(count);
  }

  const int threads;
  const std::vector<PoolNode> nodes;
  std::vector<int> first;    // thread of each node, and their number
  std::vector<size_t> home;  // node of each thread
  std::unique_ptr<Share[]> shares;
  const int64_t owner;  // a forked child has no workers
  std::vector<std::thread> workers;
  std::mutex turn;
  alignas(64) std::atomic<uint32_t> generation{0};  // changes when work is published and at the end
  std::atomic<uint32_t> open{0};                    // the generation that may be joined, or 0
  std::atomic<bool> stop{false};
  alignas(64) std::atomic<int> active{0};
  alignas(64) std::atomic<int> parked{0};
  std::atomic<int> refusals{0};
  void (*body)(void*, int64_t, int) = nullptr;
  void* context = nullptr;
  bool own = false;  // no stealing; the caller waits for what is `undone`
  std::atomic<int64_t> undone{0};

  bool several() const { return nodes.size() > 1; }

  void drain(Share& share, int thread) {
    for (int64_t i = share.next.fetch_add(1, std::memory_order_relaxed); i < share.end;
         i = share.next.fetch_add(1, std::memory_order_relaxed))
      body(context, i, thread);
  }

  // Own share first, then what the others of its node have left, then those of other nodes.
  void work(int thread) {
    if (own) return work_own(thread);
    const size_t at = home[static_cast<size_t>(thread)];
    for (size_t n = 0; n < nodes.size(); ++n) {
      const size_t node = (at + n) % nodes.size();
      const int begin = first[node], count = nodes[node].threads;
      for (int i = 0; i < count; ++i) drain(shares[static_cast<size_t>(begin + (thread - first[at] + i) % count)], thread);
    }
  }

  void work_own(int thread) {
    Share& share = shares[static_cast<size_t>(thread)];
    int64_t done = 0;
    for (int64_t i = share.next.fetch_add(1); i < share.end; i = share.next.fetch_add(1), ++done) body(context, i, thread);
    if (done > 0 && undone.fetch_sub(done) == done) undone.notify_one();
  }

  // Waits until the generation is no longer `seen`; spins as long as that has paid off lately, then parks. It never yields: the
  // scheduler takes a yield for a whole slice given away, so that a thread of low priority beside this one would get half of its
  // core, while a parked thread that is woken passes such a thread at once.
  void await(uint32_t seen, int& spins) {
    for (int i = 0; i < spins; ++i) {
      if (generation.load(std::memory_order_acquire) != seen) {
        spins = spins * 2 < kMaxSpins ? spins * 2 : kMaxSpins;
        return;
      }
      relax();
    }
    spins = spins / 2 > kMinSpins ? spins / 2 : kMinSpins;
    parked.fetch_add(1);
    generation.wait(seen);
    parked.fetch_sub(1);
  }

  void serve(int thread) {
    if (several() && !bind_thread(nodes[home[static_cast<size_t>(thread)]].cpus)) refusals.fetch_add(1);
    uint32_t seen = 0;
    int spins = kMaxSpins;
    while (!stop.load()) {
      await(seen, spins);
      seen = generation.load();
      active.fetch_add(1);
      if (open.load() != 0) work(thread);
      if (active.fetch_sub(1) == 1) active.notify_one();
    }
  }

  int64_t begin_of(int64_t count, int node) const { return count * first[static_cast<size_t>(node)] / threads; }

  // The indices [begin, end) among the threads of one node.
  void deal(size_t node, int64_t begin, int64_t end) {
    const int64_t count = end - begin, each = count / nodes[node].threads, rest = count % nodes[node].threads;
    for (int t = 0; t < nodes[node].threads; ++t) {
      Share& share = shares[static_cast<size_t>(first[node] + t)];
      share.end = begin + each + (t < rest ? 1 : 0);
      share.next.store(begin, std::memory_order_relaxed);
      begin = share.end;
    }
  }

  void publish(int64_t count, const int64_t* begins) {
    for (size_t n = 0; n < nodes.size(); ++n) {
      const int node = static_cast<int>(n);
      if (begins != nullptr) deal(n, begins[n], begins[n + 1]);
      else deal(n, begin_of(count, node), begin_of(count, node + 1));
    }
    uint32_t next = generation.load() + 1;
    if (next == 0) next = 1;
    open.store(next);
    generation.store(next);
    if (parked.load() != 0) generation.notify_all();
  }

  // No thread can join any more; waits for those that have.
  void close() {
    open.store(0);
    for (int i = 0; i < kMaxSpins; ++i) {
      if (active.load() == 0) return;
      relax();
    }
    for (int left = active.load(); left != 0; left = active.load()) active.wait(left);
  }
};

Pool::Pool(int threads) : Pool(std::vector<PoolNode>{{0, threads < 1 ? 1 : threads, {}}}) {}

Pool::Pool(std::vector<PoolNode> nodes) {
  int threads = 0;
  for (const PoolNode& node : nodes) threads += node.threads;
  state_ = new State(std::move(nodes), threads);
  state_->workers.reserve(static_cast<size_t>(threads));
  for (int t = 1; t < threads; ++t) state_->workers.emplace_back([state = state_, t] { state->serve(t); });
}

Pool::~Pool() {
  if (process_id() != state_->owner)
    return;  // the threads are the parent's: nothing to join, and their handles must not be touched
  state_->stop.store(true);
  state_->generation.fetch_add(1);
  state_->generation.notify_all();
  for (std::thread& worker : state_->workers) worker.join();
  delete state_;
}

int Pool::threads() const { return state_->threads; }

int Pool::nodes() const { return static_cast<int>(state_->nodes.size()); }

std::vector<int> Pool::node_ids() const {
  std::vector<int> ids;
  for (const PoolNode& node : state_->nodes) ids.push_back(node.id);
  return ids;
}

int64_t Pool::begin_of(int64_t count, int node) const { return state_->begin_of(count, node); }

int Pool::refusals() const { return state_->refusals.load(); }

void Pool::note_refusal() const { state_->refusals.fetch_add(1); }

void Pool::bind_caller() const {
  if (state_->several() && !bind_thread(state_->nodes[0].cpus)) note_refusal();
}

void Pool::run(int64_t count, void (*body)(void*, int64_t, int), void* context, const int64_t* begins) {
  if (count <= 0) return;
  State& s = *state_;
  if (process_id() != s.owner || (s.threads == 1)) {
    for (int64_t i = 0; i < count; ++i) body(context, i, 0);
    return;
  }
  const std::lock_guard<std::mutex> lock(s.turn);
  if (count == 1) return body(context, 0, 0);
  s.body = body;
  s.context = context;
  s.publish(count, begins);
  s.work(0);
  s.close();
}

void Pool::run_own(int64_t count, void (*body)(void*, int64_t, int), void* context) {
  State& s = *state_;
  if (!s.several() || process_id() != s.owner || count <= 0) return run(count, body, context);
  const std::lock_guard<std::mutex> lock(s.turn);
  const BoundHere bound(s.nodes[0].cpus);
  s.body = body;
  s.context = context;
  s.own = true;
  s.undone.store(count);
  s.publish(count, nullptr);
  s.work(0);
  for (int64_t undone = s.undone.load(); undone != 0; undone = s.undone.load()) s.undone.wait(undone);
  s.close();
  s.own = false;
}

}  // namespace penstock
