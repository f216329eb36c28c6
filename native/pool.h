// Thread pool of the process: workers spin briefly, then park. Knows nothing about models.
// Invariant: which thread runs an index never changes what is computed for it.
#pragma once
#include <cstdint>
#include <type_traits>
#include <vector>

#include "counted.h"

namespace penstock {

// Threads that share a memory controller: they may run on the node's processors and nowhere else.
struct PoolNode {
  int id = 0;  // the system's number
  int threads = 0;
  std::vector<int> cpus;
};

class Pool {
 public:
  // threads ≥ 1, the caller included: threads - 1 workers are started.
  explicit Pool(int threads);
  // The same for the threads of all nodes together, node by node, each bound to its node's processors; with one node none is.
  explicit Pool(std::vector<PoolNode> nodes);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const;
  int nodes() const;
  std::vector<int> node_ids() const;

  // How often the system refused to bind a thread or to place memory on the nodes: it runs all the same, placed by chance.
  int refusals() const;
  void note_refusal() const;

  // The first of `count` indices that belongs to a node: nodes share by how many threads they have. nodes() gives `count`.
  int64_t begin_of(int64_t count, int node) const;

  // Binds the calling thread, which is to be the first of every later run, to the first of several nodes.
  void bind_caller() const;

  // Runs body(context, index, thread) for every index in [0, count) and returns when all are done. Indices are dealt out as a static
  // first share a thread, then stolen by an atomic counter, from threads of the own node first. `begins` [nodes + 1] says which indices
  // are each node's; null is begin_of. Not reentrant; one caller at a time (callers take turns on a lock).
  void run(int64_t count, void (*body)(void* context, int64_t index, int thread), void* context, const int64_t* begins = nullptr);

  // As run, without stealing where there are several nodes: every index is run on its own node, the caller's too. For memory that is
  // touched for the first time.
  void run_own(int64_t count, void (*body)(void* context, int64_t index, int thread), void* context);

  // The same with a callable object f(index, thread).
  template <class F>
  void each(int64_t count, F&& f, const int64_t* begins = nullptr) {
    run(count, &call<F>, const_cast<void*>(static_cast<const void*>(&f)), begins);
  }
  template <class F>
  void each_own(int64_t count, F&& f) {
    run_own(count, &call<F>, const_cast<void*>(static_cast<const void*>(&f)));
  }

 private:
  template <class F>
  static void call(void* c, int64_t i, int t) {
    (*static_cast<std::remove_reference_t<F>*>(c))(i, t);
  }

  struct State;
  State* state_;
  Counted<Pool> counted_;
};

}  // namespace penstock
