// Where threads run and memory lies on a machine of several nodes: calls to the operating system, nothing decided. Knows nothing about
// pools or weights. Invariant: what the system refuses changes nothing and is told to the caller.
#pragma once
#include <cstddef>
#include <vector>

namespace penstock {

// Lets the calling thread run on these processors only; false where the system refuses.
bool bind_thread(const std::vector<int>& cpus);

// Binds the calling thread while it exists, then gives it back what it had.
class BoundHere {
 public:
  explicit BoundHere(const std::vector<int>& cpus);  // empty: nothing is changed
  ~BoundHere();
  BoundHere(const BoundHere&) = delete;
  BoundHere& operator=(const BoundHere&) = delete;

 private:
  std::vector<int> before_;
};

// Untouched pages of [memory, memory + bytes), whole pages, come from these nodes in turn; false where the system refuses.
bool interleave(void* memory, size_t bytes, const std::vector<int>& nodes);

}  // namespace penstock
