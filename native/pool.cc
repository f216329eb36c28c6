// Thread pool: one generation of work at a time. Knows nothing about what the work is.
// Invariant: the caller never waits for a thread that has not joined; a worker touches a generation's fields only between joining
// (active + 1, then seeing it open) and leaving (active - 1).
#include "pool.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

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
  explicit State(int count) : threads(count), shares(new Share[static_cast<size_t>(count)]), owner(process_id()) {}

  const int threads;
  std::unique_ptr<Share[]> shares;
  const int64_t owner;  // a forked child has no workers
  std::vector<std::thread> workers;
  std::mutex turn;
  alignas(64) std::atomic<uint32_t> generation{0};  // changes when work is published and at the end
  std::atomic<uint32_t> open{0};                    // the generation that may be joined, or 0
  std::atomic<bool> stop{false};
  alignas(64) std::atomic<int> active{0};
  alignas(64) std::atomic<int> parked{0};
  void (*body)(void*, int64_t, int) = nullptr;
  void* context = nullptr;

  void drain(Share& share, int thread) {
    for (int64_t i = share.next.fetch_add(1, std::memory_order_relaxed); i < share.end;
         i = share.next.fetch_add(1, std::memory_order_relaxed))
      body(context, i, thread);
  }

  // Own share first, then what the others have left.
  void work(int thread) {
    for (int i = 0; i < threads; ++i) drain(shares[static_cast<size_t>((thread + i) % threads)], thread);
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

  void publish(int64_t count) {
    const int64_t each = count / threads, rest = count % threads;
    int64_t begin = 0;
    for (int t = 0; t < threads; ++t) {
      Share& share = shares[static_cast<size_t>(t)];
      const int64_t end = begin + each + (t < rest ? 1 : 0);
      share.end = end;
      share.next.store(begin, std::memory_order_relaxed);
      begin = end;
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

Pool::Pool(int threads) : state_(new State(threads < 1 ? 1 : threads)) {
  state_->workers.reserve(static_cast<size_t>(state_->threads));
  for (int t = 1; t < state_->threads; ++t) state_->workers.emplace_back([state = state_, t] { state->serve(t); });
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

void Pool::run(int64_t count, void (*body)(void*, int64_t, int), void* context) {
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
  s.publish(count);
  s.work(0);
  s.close();
}

}  // namespace penstock
