// Thread pool of the process: workers spin briefly, then park. Knows nothing about models.
// Invariant: which thread runs an index never changes what is computed for it.
#pragma once
#include <cstdint>

#include "counted.h"

namespace penstock {

class Pool {
 public:
  // threads ≥ 1, the caller included: threads - 1 workers are started.
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const;

  // Runs body(context, index, thread) for every index in [0, count) and returns when all are done. Indices are dealt out as a static
  // first share a thread, then stolen by an atomic counter. Not reentrant; one caller at a time (callers take turns on a lock).
  void run(int64_t count, void (*body)(void* context, int64_t index, int thread), void* context);

  // The same with a callable object f(index, thread).
  template <class F>
  void each(int64_t count, F&& f) {
    run(count, [](void* c, int64_t i, int t) { (*static_cast<F*>(c))(i, t); }, const_cast<void*>(static_cast<const void*>(&f)));
  }

 private:
  struct State;
  State* state_;
  Counted<Pool> counted_;
};

}  // namespace penstock
